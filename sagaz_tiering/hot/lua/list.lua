-- Values of a saga, newest first, from a rank on.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 first rank  3 last rank
-- Returns member, score and value by turns; a value that is gone, or that something else is in the place of, is nil.
-- Behind members.lua.
local found = {}
local places = redis.call('ZREVRANGE', KEYS[1], ARGV[2], ARGV[3], 'WITHSCORES')
for i = 1, #places, 2 do
  local id = id_of(places[i])
  if id ~= '' then
    found[#found + 1] = places[i]
    found[#found + 1] = places[i + 1]
    found[#found + 1] = redis.call('MGET', ARGV[1] .. id)[1]
  end
end
return found
