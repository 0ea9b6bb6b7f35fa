-- One snapshot by id on a single server, through its pointer.
-- KEYS  1 pointer      ARGV  1 key prefix  2 id  3 now (us)
-- Returns the value, nil if there is none or it is expired, or 0 if the pointer cannot be read.
local pointer = redis.call('GET', KEYS[1])
if not pointer then
  return false
end
local shard, saga = pointed(pointer)
if not saga then
  return 0
end
local index = ARGV[1] .. '{' .. shard .. '}' .. saga
local facts = redis.call('HGET', index .. ':facts', ARGV[2])
if not facts or expired(facts_of(facts), tonumber(ARGV[3])) then
  return false
end
return redis.call('GET', index .. ':' .. ARGV[2])
