-- One snapshot by id, through its pointer, and where its saga ends.
-- KEYS  1 pointer      ARGV  1 key prefix  2 id hex
-- Returns the value and the header of the newest snapshot of its saga (nothing where it is that itself, '' if it cannot
-- be told), nil if there is no such snapshot, or 0 if the pointer leads to a value that is gone
-- (or to something else: MGET takes that for nothing, where GET would fail).
-- Behind members.lua.
local pointer = redis.call('GET', KEYS[1])
if not pointer then
  return false
end
local index = ARGV[1] .. ':{' .. string.sub(pointer, 1, 32) .. '}'
local value = redis.call('MGET', index .. ':' .. ARGV[2])[1]
return value and {value, newest_but(index, ARGV[2])} or 0
