-- Begin a save on a cluster: let the pointer lead to the saga, unless it leads to another one.
-- KEYS  1 pointer      ARGV  1 pointer  2 time to live (ms or '')  3 '1' to let it lead here whatever it said
-- Returns the pointer that was there ('' for none), and 1 if its time to live must be shortened after the save:
-- until then it lives at least as long as the snapshot that is there.
local old = redis.call('GET', KEYS[1])
local shard, saga = pointed(old)
local new_shard, new_saga = pointed(ARGV[1])
if saga and saga ~= new_saga and ARGV[3] ~= '1' then
  return {old, 0}
end
local left = redis.call('PTTL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
local longer = left == -1 or (ARGV[2] ~= '' and left > tonumber(ARGV[2]))
if ARGV[2] ~= '' and not longer then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif ARGV[2] ~= '' and left >= 0 then
  redis.call('PEXPIRE', KEYS[1], left)
end
return {old or '', (ARGV[2] ~= '' and longer) and 1 or 0}
