-- Where a saga ends: the header of its newest snapshot.
-- KEYS  1 saga index
-- Returns it, '' if it cannot be told, nil if there is no such saga.
-- Behind members.lua.
return redis.call('EXISTS', KEYS[1]) == 1 and newest_but(KEYS[1], '')
