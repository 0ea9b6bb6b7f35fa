-- Which of these indexes something else is in the place of.
-- KEYS  indexes
-- Returns their places among the keys, from 1 on.
local found = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then
    found[#found + 1] = i
  end
end
return found
