-- One snapshot by id, through its pointer.
-- KEYS  1 pointer      ARGV  1 key prefix  2 id hex
-- Returns the value, nil if there is no such snapshot, or 0 if the pointer leads to a value that is gone
-- (or to something else: MGET takes that for nothing, where GET would fail).
local pointer = redis.call('GET', KEYS[1])
if not pointer then
  return false
end
return redis.call('MGET', ARGV[1] .. ':{' .. string.sub(pointer, 1, 32) .. '}:' .. ARGV[2])[1] or 0
