-- In front of a script that reads: unless this is the incarnation that the reader knows it answers nothing but -1.
-- KEYS  last: incarnation      ARGV  last: nonce expected ('' any)
if ARGV[#ARGV] ~= '' and redis.call('HGET', KEYS[#KEYS], 'nonce') ~= ARGV[#ARGV] then
  return -1
end
