-- Mark a save that Redis had and lost: its place in the index and its pointer, without a value, so that every read that
-- would have to answer with it says so. Not if it is there, or a newer save of the snapshot.
-- KEYS  1 saga index  2 pointer
-- ARGV  1 score (created, us)  2 member (step_index + id)  3 pointer  4 saved (us)  5 key prefix  6 id hex
-- Returns 1 if it is marked, 0 if there is something newer, or itself.
local kind, old = redis.call('TYPE', KEYS[1]).ok, redis.call('MGET', KEYS[2])[1]
if kind ~= 'zset' and kind ~= 'none' then
  return 0 -- every read of the saga says so
end
if old and #old == 56 then
  local saved, saga = struct.unpack('>l', string.sub(old, 45, 52)), string.sub(old, 1, 32)
  local index = ARGV[5] .. ':{' .. saga .. '}'
  local value = index .. ':' .. ARGV[6]
  if saved > tonumber(ARGV[4]) or (saved == tonumber(ARGV[4]) and redis.call('EXISTS', value) == 1) then
    return 0
  end
  redis.call('DEL', value)
  redis.pcall('ZREM', index, string.sub(old, 41, 44) .. string.sub(ARGV[2], 5))
end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
return 1
