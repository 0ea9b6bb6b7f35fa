-- Remove one snapshot on a single server, expired or not.
-- KEYS  1 pointer      ARGV  1 key prefix  2 id
-- Returns 1 if there was one.
local shard, saga = pointed(redis.call('GET', KEYS[1]))
redis.call('DEL', KEYS[1])
if saga and forget(ARGV[1] .. '{' .. shard .. '}', saga, ARGV[2]) then
  return 1
end
return 0
