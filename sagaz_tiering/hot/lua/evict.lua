-- Remove copies that are safe elsewhere or expired: only the very version that is, or an older one. The pointer tells
-- the version of the value, since they are only ever written together.
-- KEYS  1 saga index  2 due index  3 expiry index  4 claim
-- ARGV  1 key prefix  2 saga hex  3 token of the claim, or ''
--       4 per snapshot 64 bytes: id hex (32), member (20), saved (8), crc (4)
-- Returns how many values went, and how many snapshots the saga still has; with none left its claim ends too.
-- The version that a value itself tells, where its pointer was lost or overwritten; nil where there is no value.
local function version_of(key)
  local saved = redis.pcall('GETRANGE', key, 8, 15)
  if type(saved) ~= 'string' or #saved < 8 then
    return nil
  end
  return saved .. redis.call('GETRANGE', key, 40, 43)
end
local gone, dead, members, pointers = 0, {}, {}, {}
local value_prefix, pointer_prefix = ARGV[1] .. ':{' .. ARGV[2] .. '}:', ARGV[1] .. ':id:'
for at = 1, #ARGV[4], 64 do
  pointers[#pointers + 1] = pointer_prefix .. string.sub(ARGV[4], at, at + 31)
end
for i, pointer in ipairs(redis.call('MGET', unpack(pointers))) do
  local at = 64 * i - 63
  local key = value_prefix .. string.sub(ARGV[4], at, at + 31)
  local wanted = string.sub(ARGV[4], at + 52, at + 63)
  local ours, there
  if pointer and #pointer == 56 then
    ours = string.sub(pointer, 1, 32) == ARGV[2]
    there = ours and string.sub(pointer, 45, 56)
  else
    there = version_of(key)
    ours = there ~= nil
  end
  if there == wanted or (ours and struct.unpack('>l', there) < struct.unpack('>l', wanted)) then
    dead[#dead + 1] = key
    dead[#dead + 1] = pointers[i]
    gone = gone + 1
    members[#members + 1] = string.sub(ARGV[4], at + 32, at + 51)
  elseif not ours and redis.call('EXISTS', key) == 0 then
    members[#members + 1] = string.sub(ARGV[4], at + 32, at + 51)
  end
end
-- Of a held saga each leaves a mark: its id is not to be saved anew under another saga. A full Redis must get rid of
-- values all the same; the job `expire` marks what was not marked.
if #dead > 0 and redis.call('EXISTS', ARGV[1] .. ':held:{' .. ARGV[2] .. '}') == 1 then
  local marks = {}
  for i = 2, #dead, 2 do
    marks[#marks + 1] = ARGV[1] .. ':held-id:' .. string.sub(dead[i], -32)
    marks[#marks + 1] = '1'
  end
  redis.pcall('MSET', unpack(marks))
end
if #dead > 0 then
  redis.call('DEL', unpack(dead))
end
if #members > 0 then
  redis.pcall('ZREM', KEYS[1], unpack(members))
end
local left = redis.pcall('ZCARD', KEYS[1])
if type(left) == 'table' then
  left = 1 -- something else is in its place
end
if left == 0 then
  redis.call('ZREM', KEYS[2], ARGV[2])
  redis.call('ZREM', KEYS[3], ARGV[2])
  if ARGV[3] ~= '' and redis.call('MGET', KEYS[4])[1] == ARGV[3] then
    redis.call('DEL', KEYS[4])
  end
end
return {gone, left}
