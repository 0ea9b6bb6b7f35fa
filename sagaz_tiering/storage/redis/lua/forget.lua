-- Remove one snapshot from its saga, expired or not.
-- KEYS  1 index      ARGV  1 base  2 saga  3 id  4 only if it is moving to this place ('' for in any case)
-- Returns its facts, or nil if there was none.
if ARGV[4] ~= '' then
  local text = redis.call('HGET', KEYS[1] .. ':facts', ARGV[3])
  if not text or facts_of(text).forward ~= ARGV[4] then
    return false
  end
end
return forget(ARGV[1], ARGV[2], ARGV[3])
