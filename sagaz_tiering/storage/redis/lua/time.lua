-- What the server's clock says: seconds, microseconds.
-- KEYS  1 any key, which on a Cluster says which node is asked
return redis.call('TIME')
