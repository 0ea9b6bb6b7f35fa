-- Store one snapshot, its place in the saga's index, its pointer and when it is due, or nothing at all.
-- KEYS  1 value  2 saga index  3 pointer  4 due index  5 expiry index  6 mark of a delete
--       7 mark of a legal hold on the saga  8 the same on the snapshot, of whatever saga it was
--       9 saves that the catalog must be told of
-- ARGV  1 value  2 score (created, us)  3 member (step_index + id)  4 pointer (saga hex, created, member's step,
--       saved, crc)  5 saved (us)  6 saga hex  7 due (us or '')  8 expires (us or '')  9 key prefix  10 id hex
--       11 '1' to store it also where it, its saga, or the one that has the id now, is held; '2': and not either where
--       another save of it is there, since any may be held
--       12 saga and id (32 bytes) if nobody but Redis is to have it, else ''
-- Returns 1 if it is there now; else why not and an instant (8 bytes, us): {'saved', when another save of the same
-- snapshot was made that is as new or newer}, {'deleted', when it was deleted, at this save's instant or later},
-- {'held'} where a hold may forbid it, {'foreign'} where something else is in the place of the saga's index.
-- Instants are compared as numbers, exact up to the year 2255.
local old, deleted, held, held_id = unpack(redis.call('MGET', KEYS[3], KEYS[6], KEYS[7], KEYS[8]))
local saved = tonumber(ARGV[5])
if old and #old ~= 56 then
  old = false -- none of ours
end
local there = old == ARGV[4] and redis.call('MGET', KEYS[1])[1]
if there == ARGV[1] then
  return 1
end
if ARGV[11] ~= '1' then
  local other = old and string.sub(old, 1, 32)
  if held or held_id or (old and ARGV[11] == '2') or (other and other ~= ARGV[6] and redis.call('EXISTS', ARGV[9] .. ':held:{' .. other .. '}') == 1) then
    return {'held'}
  end
end
if old and (old ~= ARGV[4] or there) and struct.unpack('>l', string.sub(old, 45, 52)) >= saved then
  return {'saved', string.sub(old, 45, 52)}
end
if deleted and struct.unpack('>l', deleted) >= saved then
  return {'deleted', deleted}
end
-- First, so that nothing is changed where it cannot be; any other error is raised as that of the call.
local placed = redis.pcall('ZADD', KEYS[2], ARGV[2], ARGV[3])
if type(placed) == 'table' then
  if string.find(placed.err, 'WRONGTYPE', 1, true) then
    return {'foreign'}
  end
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3])
end
if old then
  local saga = string.sub(old, 1, 32)
  local index = ARGV[9] .. ':{' .. saga .. '}'
  local member = string.sub(old, 41, 44) .. string.sub(ARGV[3], 5)
  if saga ~= ARGV[6] then
    redis.call('DEL', index .. ':' .. ARGV[10])
  end
  if saga ~= ARGV[6] or member ~= ARGV[3] then
    redis.pcall('ZREM', index, member)
  end
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[3], ARGV[4])
if ARGV[7] ~= '' then
  redis.call('ZADD', KEYS[4], 'LT', ARGV[7], ARGV[6])
end
if ARGV[8] ~= '' then
  redis.call('ZADD', KEYS[5], 'LT', ARGV[8], ARGV[6])
end
if ARGV[12] ~= '' then
  redis.pcall('ZADD', KEYS[9], ARGV[5], ARGV[12])
end
return 1
