-- Remove one snapshot whatever its version.
-- KEYS  1 pointer      ARGV  1 key prefix  2 id hex  3 id (16 bytes)
-- Returns 1 if there was one.
local pointer = redis.call('GET', KEYS[1])
if not pointer then
  return 0
end
local index = ARGV[1] .. ':{' .. string.sub(pointer, 1, 32) .. '}'
redis.call('DEL', index .. ':' .. ARGV[2], KEYS[1])
redis.call('ZREM', index, string.sub(pointer, 41, 44) .. ARGV[3])
return 1
