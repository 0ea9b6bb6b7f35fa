-- Which Redis this is. If it is the expected one its number is raised, and noted when it was whole.
-- KEYS  1 incarnation  2 where what is in its place but no hash is put aside
-- ARGV  1 nonce expected  2 number that it must be above  3 run id expected ('' any)  4 now (us), '' while it is not believed
-- Returns nonce (nil: it has none), number, run id ('' unknown), when it was whole last (us; '' or nil: nobody knows),
-- and 1 if nothing can be written now (then the number is as it was), 2 if something was put aside.
local found = redis.pcall('HMGET', KEYS[1], 'nonce', 'number', 'seen')
local aside = nil
if found.err then
  if not string.find(found.err, 'WRONGTYPE', 1, true) then
    return found
  end
  local moved = redis.pcall('RENAME', KEYS[1], KEYS[2])
  if moved.err then
    return moved
  end
  found, aside = {false, false, false}, 2
end
local info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local number = (tonumber(found[2] or '0') or 0) + 1
local same = run_id == '' or ARGV[3] == '' or run_id == ARGV[3]
if same and found[1] == ARGV[1] and number > tonumber(ARGV[2]) then
  local raised = redis.pcall('HSET', KEYS[1], 'number', number)
  if type(raised) == 'table' and raised.err then
    -- Full, or unable to write to its disk: what it has can be read all the same. A replica may lack something.
    if string.find(raised.err, '^-?OOM') or string.find(raised.err, '^-?MISCONF') then
      return {found[1], number - 1, run_id, found[3], 1}
    end
    return raised
  end
  if ARGV[4] ~= '' then
    redis.call('HSET', KEYS[1], 'seen', ARGV[4])
  end
end
return {found[1], number, run_id, found[3], aside}
