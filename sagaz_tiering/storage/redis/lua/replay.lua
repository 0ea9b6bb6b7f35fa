-- Store one replay record and list its id, and on a single server its place under its saga.
-- KEYS  1 record  2 directory  3 records of the saga (not on a cluster, where they are in another slot)
-- ARGV  1 shard and saga, and the record  2 replay id  3 key prefix  4 score (created, us)  5 member
-- Returns shard and saga of the record that was there ('' for none).
local old = redis.call('GETRANGE', KEYS[1], 0, 33)
redis.call('SET', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
if KEYS[3] then
  local shard, saga = string.match(old, '^(%x%x)(%x+)$')
  if saga then
    redis.call('ZREM', ARGV[3] .. '{' .. shard .. '}' .. saga .. ':replays', ARGV[5])
  end
  redis.call('ZADD', KEYS[3], ARGV[4], ARGV[5])
end
return old
