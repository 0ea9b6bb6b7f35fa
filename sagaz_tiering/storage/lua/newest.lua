-- The newest snapshot of a saga, at or before a time, of a step if one is named.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 highest score or '+inf'  3 step name  4 '1' if a step is named
-- Returns the value, nil if there is none, or the id (hex) of an indexed snapshot whose value is gone.
local HEX = string.rep('%02x', 16)
-- The snapshot id in hex that a member of the index ends with.
local function id_of(member)
  return string.format(HEX, string.byte(member, 5, 20))
end
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
  local members = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], '-inf', 'LIMIT', offset, 64)
  if #members == 0 then
    return false
  end
  for _, member in ipairs(members) do
    local id = id_of(member)
    local value = redis.call('GET', ARGV[1] .. id)
    if not value then
      return {id}
    end
    if ARGV[4] ~= '1' or is_of_step(value, ARGV[3]) then
      return value
    end
  end
  offset = offset + #members
end
