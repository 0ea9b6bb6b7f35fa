-- Remove copies that are safe elsewhere or expired: only the very version that is, or an older one.
-- KEYS  1 saga index  2 due index  3 expiry index  4 claim
-- ARGV  1 key prefix  2 saga hex  3 token of the claim, or ''
--       4 per snapshot 64 bytes: id hex (32), member (20), saved (8), crc (4)
-- Returns how many values went, and how many snapshots the saga still has; with none left its claim ends too.
local gone, members = 0, {}
local index = ARGV[1] .. ':{' .. ARGV[2] .. '}'
for at = 1, #ARGV[4], 64 do
  local id, saved = string.sub(ARGV[4], at, at + 31), string.sub(ARGV[4], at + 52, at + 59)
  local key, pointer = index .. ':' .. id, ARGV[1] .. ':id:' .. id
  local there = redis.call('GETRANGE', key, 8, 43)
  if there == '' then
    members[#members + 1] = string.sub(ARGV[4], at + 32, at + 51)
    if redis.call('GETRANGE', pointer, 0, 31) == ARGV[2] then
      redis.call('DEL', pointer)
    end
  else
    local same = string.sub(there, 1, 8) == saved and string.sub(there, 33, 36) == string.sub(ARGV[4], at + 60, at + 63)
    if same or struct.unpack('>l', there) < struct.unpack('>l', saved) then
      redis.call('DEL', key, pointer)
      gone = gone + 1
      members[#members + 1] = string.sub(ARGV[4], at + 32, at + 51)
    end
  end
end
if #members > 0 then
  redis.call('ZREM', KEYS[1], unpack(members))
end
local left = redis.call('ZCARD', KEYS[1])
if left == 0 then
  redis.call('ZREM', KEYS[2], ARGV[2])
  redis.call('ZREM', KEYS[3], ARGV[2])
  if ARGV[3] ~= '' and redis.call('GET', KEYS[4]) == ARGV[3] then
    redis.call('DEL', KEYS[4])
  end
end
return {gone, left}
