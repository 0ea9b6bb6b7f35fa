-- The newest snapshot of a saga, at or before a time, of a step if one is named.
-- KEYS  1 saga index      ARGV  1 value key prefix  2 highest score or '+inf'  3 step name  4 '1' if a step is named
-- Returns the value, nil if there is none, or the id (hex) of an indexed snapshot whose value is gone.
local function hex(bytes)
  return (string.gsub(bytes, '.', function(c) return string.format('%02x', string.byte(c)) end))
end
local function step_of(value)
  local saga_name_length = struct.unpack('>I4', string.sub(value, 85, 88))
  local at = 89 + saga_name_length
  local length = struct.unpack('>I4', string.sub(value, at, at + 3))
  return string.sub(value, at + 4, at + 3 + length)
end
local offset = 0
while true do
  local members = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], '-inf', 'LIMIT', offset, 64)
  if #members == 0 then
    return false
  end
  for _, member in ipairs(members) do
    local id = hex(string.sub(member, 5))
    local value = redis.call('GET', ARGV[1] .. id)
    if not value then
      return {id}
    end
    if ARGV[4] ~= '1' or step_of(value) == ARGV[3] then
      return value
    end
  end
  offset = offset + #members
end
