-- One snapshot by id, through its pointer, and where its saga ends.
-- KEYS  1 pointer      ARGV  1 key prefix  2 id hex
-- Returns the value and the header of the newest snapshot of its saga (nothing where it is that itself, '' if it cannot
-- be told), nil if there is no such snapshot, or 0 if the pointer leads to a value that is gone
-- (or to something else: MGET takes that for nothing, where GET would fail).
-- The header of the newest snapshot of a saga: false where that is `except`, '' where it is gone or something else is there.
local function newest_but(index, except)
  local newest = redis.pcall('ZREVRANGE', index, 0, 0)
  if newest.err or #newest == 0 or #newest[1] ~= 20 then
    return ''
  end
  local id = string.format(string.rep('%02x', 16), string.byte(newest[1], 5, 20))
  if id == except then
    return false
  end
  local head = redis.pcall('GETRANGE', index .. ':' .. id, 0, 255)
  if type(head) ~= 'string' or #head < 8 then
    return ''
  end
  local length = struct.unpack('>I4', string.sub(head, 5, 8))
  return length > #head and redis.call('GETRANGE', index .. ':' .. id, 0, length - 1) or head
end
local pointer = redis.call('GET', KEYS[1])
if not pointer then
  return false
end
local index = ARGV[1] .. ':{' .. string.sub(pointer, 1, 32) .. '}'
local value = redis.call('MGET', index .. ':' .. ARGV[2])[1]
return value and {value, newest_but(index, ARGV[2])} or 0
