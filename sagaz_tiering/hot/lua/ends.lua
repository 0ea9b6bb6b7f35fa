-- Where a saga ends: the header of its newest snapshot.
-- KEYS  1 saga index
-- Returns it, '' if it cannot be told, nil if there is no such saga.
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
return redis.call('EXISTS', KEYS[1]) == 1 and newest_but(KEYS[1], '')
