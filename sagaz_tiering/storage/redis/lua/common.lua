-- What the scripts of the standalone storage share; put in front of each. Layout and terms: storage/redis/keys.py.
-- base is key prefix and shard, such as 'snapshot:{7f}'; saga and id are 32 hex digits.
local function facts_of(text)
  local step, tag, nonce, size, expires, forward =
    string.match(text, '^(%x+),(%x+),(%x+),(%d+),(-?%d*),(%x*)$')
  return {step = step, tag = tag, nonce = nonce, size = size, expires = expires, forward = forward}
end

local function expired(facts, now)
  return facts.expires ~= '' and tonumber(facts.expires) <= now
end

local function pointed(pointer)
  if not pointer then
    return nil
  end
  return string.match(pointer, '^(%x%x)(%x+),')
end

local function count(base, snapshots, bytes)
  redis.call('HINCRBY', base .. 'totals', 'snapshots', snapshots)
  redis.call('HINCRBY', base .. 'totals', 'bytes', bytes)
end

-- Take a snapshot out of everything in its shard but its value; its facts, or false if there were none.
local function unlist(base, saga, id)
  local text = redis.call('HGET', base .. saga .. ':facts', id)
  if not text then
    return false
  end
  local facts = facts_of(text)
  redis.call('ZREM', base .. saga, facts.step .. id)
  redis.call('HDEL', base .. saga .. ':facts', id)
  if facts.expires ~= '' then
    redis.call('ZREM', base .. 'expiring', saga .. id .. facts.size)
  end
  if redis.call('EXISTS', base .. saga) == 0 then
    redis.call('ZREM', base .. 'sagas', saga)
  end
  count(base, -1, '-' .. facts.size)
  return text
end

-- The same, and its value.
local function forget(base, saga, id)
  redis.call('DEL', base .. saga .. ':' .. id)
  return unlist(base, saga, id)
end

-- Remove a pointer if it leads to this saga.
local function unpoint(prefix, shard, saga, id)
  local at, of = pointed(redis.call('GET', prefix .. 'where:' .. id))
  if at == shard and of == saga then
    redis.call('DEL', prefix .. 'where:' .. id)
  end
end

-- Remove what an entry of 'expiring' is about, which was due at `until_us`: 1 if that was a snapshot, 0 if a later
-- save of it is alive. What Redis has freed by itself may have left nothing but the entry.
local function expire(base, entry, until_us)
  local saga, id, size = string.sub(entry, 1, 32), string.sub(entry, 33, 64), string.sub(entry, 65)
  local text = redis.call('HGET', base .. saga .. ':facts', id)
  local facts = text and facts_of(text)
  if facts and expired(facts, until_us) and facts.size == size then
    forget(base, saga, id)
    return 1
  end
  redis.call('ZREM', base .. 'expiring', entry)
  count(base, -1, '-' .. size)
  if not text and redis.call('EXISTS', base .. saga) == 0 then
    redis.call('ZREM', base .. 'sagas', saga)
  end
  return text and 0 or 1
end

-- Remove up to `most` snapshots of a shard that expired at or before `until_us`, or of those only what Redis has
-- freed by itself; how many, and how many were looked at.
local function sweep(prefix, shard, until_us, most, with_pointers, only_freed)
  local base, removed = prefix .. '{' .. shard .. '}', 0
  local due = redis.call('ZRANGEBYSCORE', base .. 'expiring', '-inf', until_us, 'LIMIT', 0, most)
  for _, entry in ipairs(due) do
    local saga, id = string.sub(entry, 1, 32), string.sub(entry, 33, 64)
    if not only_freed or redis.call('EXISTS', base .. saga .. ':' .. id) == 0 then
      local gone = expire(base, entry, tonumber(until_us))
      if with_pointers and gone == 1 then
        unpoint(prefix, shard, saga, id)
      end
      removed = removed + gone
    end
  end
  return removed, #due
end
