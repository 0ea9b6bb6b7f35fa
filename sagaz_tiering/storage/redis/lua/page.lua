-- Live snapshots of a saga in order, from a place on: latest, at a time, of a step, lists, walks.
-- KEYS  1 index  2 facts
-- ARGV  1 base  2 saga  3 now (us)  4 '1' for newest first  5 highest score ('+inf': any; only newest first)
--       6 member and 7 its score to go on behind ('' to begin)  8 tag of the step ('' for any)
--       9 how many at most  10 stop at so many bytes of values
-- Returns member and score to go on from ('' when there is no more), then member, score, value and the place it is
-- moving to by turns. A value that is gone is skipped, and taken out of the index.
local AT_ONCE, LOOK_AT = 64, 4096
local index, now, reverse = KEYS[1], tonumber(ARGV[3]), ARGV[4] == '1'
local range, rank_of = reverse and 'ZREVRANGE' or 'ZRANGE', reverse and 'ZREVRANK' or 'ZRANK'

-- How many members come before the first one that is asked for.
local function first_rank()
  if ARGV[6] == '' then
    return ARGV[5] == '+inf' and 0 or redis.call('ZCOUNT', index, '(' .. ARGV[5], '+inf')
  end
  local rank = redis.call(rank_of, index, ARGV[6])
  if rank then
    return rank + 1
  end
  -- It was removed meanwhile: behind those of another time, and among those of its own by comparing.
  rank = reverse and redis.call('ZCOUNT', index, '(' .. ARGV[7], '+inf') or redis.call('ZCOUNT', index, '-inf', '(' .. ARGV[7])
  local same = redis.call('ZCOUNT', index, ARGV[7], ARGV[7])
  for _, member in ipairs(redis.call(range, index, rank, rank + same - 1)) do
    if (reverse and member < ARGV[6]) or (not reverse and member > ARGV[6]) then
      break
    end
    rank = rank + 1
  end
  return rank
end

local found, lost, size, looked_at, last = {'', ''}, {}, 0, 0, nil
local most, most_bytes = tonumber(ARGV[9]), tonumber(ARGV[10])

-- Look at one member; true when the page is full.
local function take(member, score, text)
  last = member
  local id, facts = string.sub(member, 9), text and facts_of(text)
  if not facts or expired(facts, now) or (ARGV[8] ~= '' and facts.tag ~= ARGV[8]) then
    return false
  end
  local value = redis.call('GET', index .. ':' .. id)
  if not value then
    lost[#lost + 1] = id
    return false
  end
  found[#found + 1] = member
  found[#found + 1] = score
  found[#found + 1] = value
  found[#found + 1] = facts.forward
  size = size + #value
  return (#found - 2) / 4 >= most or size >= most_bytes
end

local function fill()
  local rank = first_rank()
  while looked_at < LOOK_AT do
    local places = redis.call(range, index, rank, rank + AT_ONCE - 1, 'WITHSCORES')
    if #places == 0 then
      last = nil
      return
    end
    local ids = {}
    for i = 1, #places, 2 do
      ids[#ids + 1] = string.sub(places[i], 9)
    end
    for i, text in ipairs(redis.call('HMGET', KEYS[2], unpack(ids))) do
      if take(places[2 * i - 1], places[2 * i], text) then
        return
      end
    end
    rank, looked_at = rank + #ids, looked_at + #ids
  end
end

fill()
if last then
  found[1], found[2] = last, redis.call('ZSCORE', index, last)
end
for _, id in ipairs(lost) do
  unlist(ARGV[1], ARGV[2], id)
end
return found
