-- All values of a saga, oldest first, if they are few and small.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 at most so many  3 at most so many bytes
-- Returns how many snapshots the index names, then members and values by turns (nil for a value that is gone, and for
-- what is no member of ours), or
-- nothing after the number if they are too many or too large.
local HEX = string.rep('%02x', 16)
local AT_ONCE = 8
local count = redis.call('ZCARD', KEYS[1])
if count > tonumber(ARGV[2]) then
  return {count}
end
local found, room = {count}, tonumber(ARGV[3])
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
for first = 1, #members, AT_ONCE do
  local keys = {}
  for i = first, math.min(first + AT_ONCE - 1, #members) do
    keys[#keys + 1] = ARGV[1] .. (#members[i] == 20 and string.format(HEX, string.byte(members[i], 5, 20)) or '')
  end
  for i, value in ipairs(redis.call('MGET', unpack(keys))) do
    room = room - (value and #value or 0)
    if room < 0 then
      return {count}
    end
    found[#found + 1] = members[first + i - 1]
    found[#found + 1] = value
  end
end
return found
