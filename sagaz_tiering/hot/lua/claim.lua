-- Sagas that are due and that nobody works on; each is ours for a while.
-- KEYS  1 due or expiry index
-- ARGV  1 claim key prefix  2 now (us)  3 how many  4 for how long (ms)  5 token  6 when they are due again if nobody
--       acknowledges them (us): a claimed saga is out of the way of the next claim, and of nobody for ever
-- Returns saga hex by saga hex.
local found, passed = {}, 0
while #found < tonumber(ARGV[3]) and passed < 20000 do
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', passed, 200)
  if #page == 0 then
    break
  end
  for _, saga in ipairs(page) do
    if #found < tonumber(ARGV[3]) and redis.call('SET', ARGV[1] .. saga, ARGV[5], 'NX', 'PX', ARGV[4]) then
      redis.call('ZADD', KEYS[1], ARGV[6], saga)
      found[#found + 1] = saga
    else
      passed = passed + 1
    end
  end
end
return found
