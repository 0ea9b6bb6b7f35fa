-- name: acquire
-- Take the lease if it is free or has run out; a new holder gets a new epoch. The server's clock decides.
INSERT INTO sagaz_tiering.leases AS l (name, owner, epoch, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE
   SET owner = excluded.owner, epoch = l.epoch + 1, expires_at = excluded.expires_at
 WHERE l.expires_at <= clock_timestamp()
RETURNING epoch

-- name: renew
UPDATE sagaz_tiering.leases
   SET expires_at = clock_timestamp() + $4::interval
 WHERE name = $1 AND owner = $2 AND epoch = $3 AND expires_at > clock_timestamp()

-- name: release
UPDATE sagaz_tiering.leases
   SET expires_at = clock_timestamp()
 WHERE name = $1 AND owner = $2 AND epoch = $3 AND expires_at > clock_timestamp()

-- name: fence
-- Inside a transaction: the lease is ours now and cannot be taken before we commit; it can be renewed meanwhile, since
-- that does not change the key (name, epoch).
SELECT 1 FROM sagaz_tiering.leases
 WHERE name = $1 AND owner = $2 AND epoch = $3 AND expires_at > clock_timestamp()
   FOR KEY SHARE

-- name: held
-- Who holds what now, for `status`.
SELECT name, owner, epoch, expires_at FROM sagaz_tiering.leases
 WHERE expires_at > clock_timestamp() ORDER BY name
