-- Remove what was saved of a saga until an instant, damaged or not; what was saved later stays.
-- KEYS  1 saga index
-- ARGV  1 key prefix  2 saga hex  3 saved until (us)  4 members of the index (20 bytes each)
-- Returns how many members went. A value without a pointer can be of no later save: the two are written together.
local HEX = string.rep('%02x', 16)
local gone = 0
for at = 1, #ARGV[4], 20 do
  local member = string.sub(ARGV[4], at, at + 19)
  local id = string.format(HEX, string.byte(member, 5, 20))
  local pointer = redis.call('MGET', ARGV[1] .. ':id:' .. id)[1]
  local ours = pointer and #pointer == 56 and string.sub(pointer, 1, 32) == ARGV[2]
  if not ours or struct.unpack('>l', string.sub(pointer, 45, 52)) <= tonumber(ARGV[3]) then
    redis.call('DEL', ARGV[1] .. ':{' .. ARGV[2] .. '}:' .. id)
    gone = gone + redis.call('ZREM', KEYS[1], member)
    if ours then
      redis.call('DEL', ARGV[1] .. ':id:' .. id)
    end
  end
end
return gone
