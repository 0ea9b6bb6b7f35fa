-- Store one snapshot: its value, its place in its saga's index, its facts, and on a single server its pointer.
-- KEYS  1 value  2 pointer (not on a cluster, where it is in another slot)
-- ARGV  1 key prefix  2 shard  3 saga  4 id  5 value  6 score (created, us)  7 facts  8 time to live (ms or '')
--       9 pointer  10 tidy up what expired before (us)  11 '1' to overwrite a snapshot that is moving away
-- Returns '' when stored, or the place that the snapshot was moving to (then nothing was stored).
local prefix, shard, saga, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local base = prefix .. '{' .. shard .. '}'
local index, facts = base .. saga, facts_of(ARGV[7])
local known = redis.call('HGET', index .. ':facts', id)
if known and ARGV[11] ~= '1' and not KEYS[2] and facts_of(known).forward ~= '' then
  return facts_of(known).forward
end
-- Setting the value comes first: Redis checks its memory only before the first write of a script.
if ARGV[8] == '' then
  redis.call('SET', KEYS[1], ARGV[5])
else
  redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[8])
end
if KEYS[2] then
  local old_shard, old_saga = pointed(redis.call('GET', KEYS[2]))
  if old_saga and old_saga ~= saga then
    forget(prefix .. '{' .. old_shard .. '}', old_saga, id)
  end
  if ARGV[8] == '' then
    redis.call('SET', KEYS[2], ARGV[9])
  else
    redis.call('SET', KEYS[2], ARGV[9], 'PX', ARGV[8])
  end
end
unlist(base, saga, id)
local left = redis.call('PTTL', index)
redis.call('ZADD', index, ARGV[6], facts.step .. id)
redis.call('HSET', index .. ':facts', id, ARGV[7])
redis.call('ZADD', base .. 'sagas', 0, saga)
count(base, 1, facts.size)
if facts.expires ~= '' and redis.call('ZADD', base .. 'expiring', facts.expires, saga .. id .. facts.size) == 0 then
  count(base, -1, '-' .. facts.size) -- an entry of something that Redis has freed by itself is this one's now
end
if ARGV[8] == '' then
  if left >= 0 then
    redis.call('PERSIST', index)
    redis.call('PERSIST', index .. ':facts')
  end
elseif left == -2 or (left >= 0 and left < tonumber(ARGV[8])) then
  redis.call('PEXPIRE', index, ARGV[8])
  redis.call('PEXPIRE', index .. ':facts', ARGV[8])
end
sweep(prefix, shard, ARGV[10], 4, KEYS[2], true)
return ''
