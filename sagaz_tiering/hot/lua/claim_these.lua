-- Sagas become ours for a while, those that nobody works on.
-- KEYS  claims      ARGV  1 for how long (ms)  2 token
-- Returns the places of those among the keys, from 1 on.
local found = {}
for i, claim in ipairs(KEYS) do
  if redis.call('SET', claim, ARGV[2], 'NX', 'PX', ARGV[1]) then
    found[#found + 1] = i
  end
end
return found
