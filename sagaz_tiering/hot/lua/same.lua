-- In front of a script that reads: unless this is the incarnation that the reader knows it answers nothing but -1.
-- KEYS  last: incarnation      ARGV  last: nonce expected ('' any)
-- So it is where the key holds something else than a hash: the error is no nonce.
if ARGV[#ARGV] ~= '' and redis.pcall('HGET', KEYS[#KEYS], 'nonce') ~= ARGV[#ARGV] then
  return -1
end
