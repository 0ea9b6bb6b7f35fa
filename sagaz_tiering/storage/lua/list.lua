-- Values of a saga, newest first, from a rank on.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 first rank  3 last rank
-- Returns members and values by turns; a value that is gone is nil.
local HEX = string.rep('%02x', 16)
-- The snapshot id in hex that a member of the index ends with.
local function id_of(member)
  return string.format(HEX, string.byte(member, 5, 20))
end
local found = {}
for _, member in ipairs(redis.call('ZREVRANGE', KEYS[1], ARGV[2], ARGV[3])) do
  found[#found + 1] = member
  found[#found + 1] = redis.call('GET', ARGV[1] .. id_of(member))
end
return found
