-- Remove snapshots that are expired.
-- KEYS  the 'expiring' sets      ARGV  1 key prefix  2 now (us)  3 how many at most  4 '1' if pointers are on this
--       server too  then the shards of the sets
-- Returns how many went, and how many entries were looked at.
local removed, seen = 0, 0
for i = 1, #KEYS do
  local left = tonumber(ARGV[3]) - seen
  if left <= 0 then
    break
  end
  local gone, looked_at = sweep(ARGV[1], ARGV[4 + i], ARGV[2], left, ARGV[4] == '1')
  removed, seen = removed + gone, seen + looked_at
end
return {removed, seen}
