-- Saves that Redis alone acknowledged and that the catalog was not told of yet, the oldest first.
-- KEYS  1 saves that the catalog must be told of      ARGV  1 key prefix  2 until (us)  3 at most so many
-- Returns saga and id (32 bytes), saved (us), and the header of the value ('' where it is gone) by turns.
local HEX = string.rep('%02x', 16)
local found = {}
local saves = redis.pcall('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
if saves.err then
  return found
end
for i = 1, #saves, 2 do
  local both = saves[i]
  local saga = string.format(HEX, string.byte(both, 1, 16))
  local key = ARGV[1] .. ':{' .. saga .. '}:' .. string.format(HEX, string.byte(both, 17, 32))
  local head = redis.pcall('GETRANGE', key, 0, 1023)
  if type(head) == 'string' and #head >= 8 and struct.unpack('>I4', string.sub(head, 5, 8)) > #head then
    head = redis.pcall('GETRANGE', key, 0, struct.unpack('>I4', string.sub(head, 5, 8)) - 1)
  end
  found[#found + 1] = both
  found[#found + 1] = saves[i + 1]
  found[#found + 1] = type(head) == 'string' and head or ''
end
return found
