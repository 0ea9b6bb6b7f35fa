-- Remove a pointer that still begins like this.
-- KEYS  1 pointer      ARGV  1 its beginning
local pointer = redis.call('GET', KEYS[1])
if pointer and string.sub(pointer, 1, #ARGV[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
