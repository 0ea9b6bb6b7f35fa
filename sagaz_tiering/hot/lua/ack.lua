-- Work on a saga is done: note when it is due next and let go of it.
-- KEYS  1 saga index  2 due index  3 expiry index  4 claim
-- ARGV  1 saga hex  2 how many snapshots we saw left  3 next due (us or '')  4 next expiry (us or '')  5 token
--       6 the index that it was claimed from (2 or 3, '' for neither)  7 now (us)
-- If the saga changed meanwhile it is looked at again at once.
local left = redis.pcall('ZCARD', KEYS[1])
if type(left) == 'table' then
  left = -2 -- something else is in its place, which the next claim finds
end
if left == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
elseif left == tonumber(ARGV[2]) then
  for i = 2, 3 do
    if ARGV[i + 1] == '' then
      redis.call('ZREM', KEYS[i], ARGV[1])
    else
      redis.call('ZADD', KEYS[i], ARGV[i + 1], ARGV[1])
    end
  end
elseif ARGV[6] ~= '' then
  redis.call('ZADD', KEYS[tonumber(ARGV[6])], 'LT', ARGV[7], ARGV[1])
end
if redis.call('MGET', KEYS[4])[1] == ARGV[5] then
  redis.call('DEL', KEYS[4])
end
return left
