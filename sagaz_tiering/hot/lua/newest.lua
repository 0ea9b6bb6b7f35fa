-- The newest snapshot of a saga, at or before a time, of a step if one is named.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 highest score or '+inf'  3 step name  4 '1' if a step is named
-- Returns its member, its score, the value (nil: it is gone, or something else is there) and, unless it is the newest of
-- all, the header of that ('' if it cannot be told); or nil if there is none.
-- Behind members.lua.
-- Whether a value is of that step; one too short to tell counts, so that the reader sees that it is damaged.
local function is_of_step(value, name)
  if #value < 92 then
    return true
  end
  local saga_name_length = struct.unpack('>I4', string.sub(value, 85, 88))
  local at = 89 + saga_name_length
  if #value < at + 3 then
    return true
  end
  local length = struct.unpack('>I4', string.sub(value, at, at + 3))
  return string.sub(value, at + 4, at + 3 + length) == name
end
local offset = 0
while true do
  local places = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], '-inf', 'WITHSCORES', 'LIMIT', offset, 64)
  if #places == 0 then
    return false
  end
  for i = 1, #places, 2 do
    local id = id_of(places[i])
    if id ~= '' then
      local value = redis.call('MGET', ARGV[1] .. id)[1]
      if not value or ARGV[4] ~= '1' or is_of_step(value, ARGV[3]) then
        return {places[i], places[i + 1], value, newest_but(KEYS[1], id)}
      end
    end
  end
  offset = offset + #places / 2
end
