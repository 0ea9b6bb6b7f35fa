-- Remove up to so many snapshots of a saga, oldest first.
-- KEYS  1 index      ARGV  1 key prefix  2 shard  3 saga  4 how many  5 '1' if pointers are on this server too
-- Returns id and facts by turns.
local base, gone = ARGV[1] .. '{' .. ARGV[2] .. '}', {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[4] - 1)) do
  local id = string.sub(member, 9)
  local text = forget(base, ARGV[3], id)
  if not text then
    redis.call('ZREM', KEYS[1], member)
  end
  if ARGV[5] == '1' then
    unpoint(ARGV[1], ARGV[2], ARGV[3], id)
  end
  gone[#gone + 1] = id
  gone[#gone + 1] = text or ''
end
return gone
