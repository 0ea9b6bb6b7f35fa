-- Remove one snapshot, unless it was saved later than an instant, and mark that instant for a while: a save of this
-- snapshot that comes afterwards is later, whatever the clock of its host says.
-- KEYS  1 pointer  2 mark of a delete
-- ARGV  1 key prefix  2 id hex  3 id (16 bytes)  4 saved until (us)  5 the same (8 bytes)  6 how long to mark it (ms)
-- Returns 1 if there was one.
local pointer, mark = unpack(redis.call('MGET', KEYS[1], KEYS[2]))
local until_us = tonumber(ARGV[4])
if not mark or struct.unpack('>l', mark) <= until_us then
  redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[6])
end
if not pointer or (#pointer == 56 and struct.unpack('>l', string.sub(pointer, 45, 52)) > until_us) then
  return 0
end
local index = ARGV[1] .. ':{' .. string.sub(pointer, 1, 32) .. '}'
redis.call('DEL', index .. ':' .. ARGV[2], KEYS[1])
redis.pcall('ZREM', index, string.sub(pointer, 41, 44) .. ARGV[3])
return 1
