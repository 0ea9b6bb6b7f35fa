-- Note that a snapshot is about to be saved under another saga: from then on, whoever reads it looks there first.
-- KEYS  1 facts      ARGV  1 id  2 the new place (shard and saga)
-- Returns nil if there is no such snapshot, else the place that was noted before ('' for none).
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then
  return false
end
redis.call('HSET', KEYS[1], ARGV[1], string.gsub(text, ',%x*$', ',' .. ARGV[2]) .. '')
return facts_of(text).forward
