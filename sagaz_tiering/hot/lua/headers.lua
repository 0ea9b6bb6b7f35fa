-- What is known of a saga's snapshots without their bodies, oldest first, from a rank on.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 first rank  3 last rank
-- Returns member, score, header bytes (nil: the value is gone, or no value) and value length by turns.
-- Behind members.lua.
local found = {}
local places = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[3], 'WITHSCORES')
for i = 1, #places, 2 do
  local member = places[i]
  local key = ARGV[1] .. id_of(member)
  local head = redis.pcall('GETRANGE', key, 0, 255)
  if type(head) ~= 'string' then
    head = ''
  elseif #head >= 8 then
    local length = struct.unpack('>I4', string.sub(head, 5, 8))
    if length > #head then
      head = redis.call('GETRANGE', key, 0, length - 1)
    end
  end
  found[#found + 1] = member
  found[#found + 1] = places[i + 1]
  found[#found + 1] = #head > 0 and head or false
  found[#found + 1] = #head > 0 and redis.call('STRLEN', key) or 0
end
return found
