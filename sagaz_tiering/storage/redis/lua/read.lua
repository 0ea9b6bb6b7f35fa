-- One snapshot of a saga.
-- KEYS  1 facts  2 value      ARGV  1 id  2 now (us)
-- Returns the value and the place it is moving to ('' for none), or nil if there is none or it is expired.
local text = redis.call('HGET', KEYS[1], ARGV[1])
local value = redis.call('GET', KEYS[2])
if not text or not value or expired(facts_of(text), tonumber(ARGV[2])) then
  return false
end
return {value, facts_of(text).forward}
