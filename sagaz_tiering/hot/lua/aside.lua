-- Move one save out of everybody's way, to the same names under another prefix, if it is still this one.
-- KEYS  1 saga index  2 pointer
-- ARGV  1 other prefix  2 saga hex  3 id hex  4 member  5 score (created, us)  6 pointer
-- Returns 1 if it was moved.
if redis.call('MGET', KEYS[2])[1] ~= ARGV[6] or redis.call('TYPE', KEYS[1]).ok ~= 'zset' then
  return 0
end
local value, index = KEYS[1] .. ':' .. ARGV[3], ARGV[1] .. ':{' .. ARGV[2] .. '}'
redis.call('RENAME', KEYS[2], ARGV[1] .. ':id:' .. ARGV[3])
if redis.call('EXISTS', value) == 1 then
  redis.call('RENAME', value, index .. ':' .. ARGV[3])
end
redis.call('ZADD', index, ARGV[5], ARGV[4])
redis.call('ZREM', KEYS[1], ARGV[4])
return 1
