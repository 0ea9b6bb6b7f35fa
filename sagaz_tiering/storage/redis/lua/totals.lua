-- How many live snapshots some shards hold and the bytes of their values.
-- KEYS  the 'totals' hashes      ARGV  1 key prefix  2 now (us)  then the shards
-- Returns snapshots, bytes, and 1 if the bytes include some of the expired (more than can be looked at in one go).
local LOOK_AT = 10000
local snapshots, bytes, over = 0, 0, 0
for i, totals in ipairs(KEYS) do
  local expiring = ARGV[1] .. '{' .. ARGV[2 + i] .. '}expiring'
  local held = redis.call('HMGET', totals, 'snapshots', 'bytes')
  local due = redis.call('ZCOUNT', expiring, '-inf', ARGV[2])
  snapshots = snapshots + tonumber(held[1] or 0) - due
  bytes = bytes + tonumber(held[2] or 0)
  if due > LOOK_AT then
    over = 1
  elseif due > 0 then
    LOOK_AT = LOOK_AT - due
    for _, entry in ipairs(redis.call('ZRANGEBYSCORE', expiring, '-inf', ARGV[2])) do
      bytes = bytes - tonumber(string.sub(entry, 65))
    end
  end
end
return {snapshots, bytes, over}
