-- Be this incarnation from now on.
-- KEYS  1 incarnation      ARGV  1 nonce  2 number  3 when it was whole (us, '' nobody knows)
redis.call('HSET', KEYS[1], 'nonce', ARGV[1], 'number', ARGV[2], 'seen', ARGV[3])
return 1
