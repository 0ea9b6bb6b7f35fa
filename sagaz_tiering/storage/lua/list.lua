-- Values of a saga, newest first, from a rank on.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 first rank  3 last rank
-- Returns members and values by turns; a value that is gone is nil.
local function hex(bytes)
  return (string.gsub(bytes, '.', function(c) return string.format('%02x', string.byte(c)) end))
end
local found = {}
for _, member in ipairs(redis.call('ZREVRANGE', KEYS[1], ARGV[2], ARGV[3])) do
  found[#found + 1] = member
  found[#found + 1] = redis.call('GET', ARGV[1] .. hex(string.sub(member, 5)))
end
return found
