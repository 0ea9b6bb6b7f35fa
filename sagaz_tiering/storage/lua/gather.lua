-- All values of a saga, oldest first, if they are few and small.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 at most so many  3 at most so many bytes
-- Returns how many snapshots the index names, then members and values by turns (a value that is gone is nil), or
-- nothing after the number if they are too many or too large.
local function hex(bytes)
  return (string.gsub(bytes, '.', function(c) return string.format('%02x', string.byte(c)) end))
end
local count = redis.call('ZCARD', KEYS[1])
local found = {count}
if count > tonumber(ARGV[2]) then
  return found
end
local room = tonumber(ARGV[3])
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local value = redis.call('GET', ARGV[1] .. hex(string.sub(member, 5)))
  room = room - (value and #value or 0)
  if room < 0 then
    return {count}
  end
  found[#found + 1] = member
  found[#found + 1] = value
end
return found
