-- Where sagas end: the headers of their newest snapshots.
-- KEYS  saga indexes
-- Returns for each the header, '' if it cannot be told, nil if there is no such saga.
-- Behind members.lua.
local found = {}
for i, index in ipairs(KEYS) do
  found[i] = redis.call('EXISTS', index) == 1 and newest_but(index, '')
end
return found
