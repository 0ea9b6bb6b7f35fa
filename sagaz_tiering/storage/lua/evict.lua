-- Remove copies that are safe elsewhere or expired: only the very version that is, or an older one.
-- KEYS  1 saga index  2 due index  3 expiry index
-- ARGV  1 key prefix  2 saga hex  then per snapshot: id hex, member, saved (8 bytes), crc (4 bytes)
-- Returns how many values went, and how many snapshots the saga still has.
local gone = 0
for i = 3, #ARGV, 4 do
  local key = ARGV[1] .. ':{' .. ARGV[2] .. '}:' .. ARGV[i]
  local saved = redis.call('GETRANGE', key, 8, 15)
  local same = saved == ARGV[i + 2] and redis.call('GETRANGE', key, 40, 43) == ARGV[i + 3]
  local older = saved ~= '' and struct.unpack('>l', saved) < struct.unpack('>l', ARGV[i + 2])
  if saved == '' or same or older then
    gone = gone + redis.call('DEL', key)
    redis.call('ZREM', KEYS[1], ARGV[i + 1])
    redis.call('DEL', ARGV[1] .. ':id:' .. ARGV[i])
  end
end
local left = redis.call('ZCARD', KEYS[1])
if left == 0 then
  redis.call('ZREM', KEYS[2], ARGV[2])
  redis.call('ZREM', KEYS[3], ARGV[2])
end
return {gone, left}
