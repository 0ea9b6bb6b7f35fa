-- Put another header in front of a value, if the value still begins with the one that was read.
-- KEYS  1 value      ARGV  1 header that was read  2 new header
-- Returns 1 if it begins with the new one now.
local value = redis.call('GET', KEYS[1])
if not value or string.sub(value, 1, #ARGV[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2] .. string.sub(value, #ARGV[1] + 1))
return 1
