-- The next ids of a directory ('sagas' or 'replays') in each of some shards; of sagas only those with a live snapshot.
-- KEYS  the directories      ARGV  1 key prefix  2 behind this id ('' to begin)  3 how many of each  4 now (us), or ''
--       for replays  then the shards of the directories
-- Returns one list for each: the last id looked at ('' when there is no more), then ids.
local function has_live(base, saga, now)
  local start = 0
  while true do
    local members = redis.call('ZREVRANGE', base .. saga, start, start + 15)
    if #members == 0 then
      return false
    end
    for i, member in ipairs(members) do
      members[i] = string.sub(member, 9)
    end
    for _, text in ipairs(redis.call('HMGET', base .. saga .. ':facts', unpack(members))) do
      if text and not expired(facts_of(text), now) then
        return true
      end
    end
    start = start + #members
  end
end

local pages, now = {}, tonumber(ARGV[4])
for i, directory in ipairs(KEYS) do
  local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
  local seen = redis.call('ZRANGEBYLEX', directory, from, '+', 'LIMIT', 0, ARGV[3])
  local page = {#seen == tonumber(ARGV[3]) and seen[#seen] or ''}
  for _, id in ipairs(seen) do
    if ARGV[4] == '' or has_live(ARGV[1] .. '{' .. ARGV[4 + i] .. '}', id, now) then
      page[#page + 1] = id
    end
  end
  pages[i] = page
end
return pages
