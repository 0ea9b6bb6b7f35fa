-- Sagas whose turn has come and that nobody works on; each is ours for a while.
-- KEYS  1 due or expiry index      ARGV  1 claim key prefix  2 now (us)  3 how many  4 for how long (ms)  5 token
-- Returns saga hex and score by turns.
local found, offset = {}, 0
while #found < 2 * tonumber(ARGV[3]) and offset < 20000 do
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', offset, 200)
  if #page == 0 then
    break
  end
  for i = 1, #page, 2 do
    if redis.call('SET', ARGV[1] .. page[i], ARGV[5], 'NX', 'PX', ARGV[4]) then
      found[#found + 1] = page[i]
      found[#found + 1] = page[i + 1]
      if #found >= 2 * tonumber(ARGV[3]) then
        break
      end
    end
  end
  offset = offset + 200
end
return found
