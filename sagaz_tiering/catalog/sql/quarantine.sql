-- name: record
-- Once more: $5 is the number of attempts from which on it is left alone. What was dropped by hand stays dropped.
INSERT INTO sagaz_tiering.quarantine AS q (kind, item, reason, attempts, state, first_seen, last_seen)
VALUES ($1, $2, $3, 1, CASE WHEN $5 <= 1 THEN 'QUARANTINED' ELSE 'FAILING' END, $4, $4)
ON CONFLICT (kind, item) DO UPDATE
   SET reason = excluded.reason, attempts = q.attempts + 1, last_seen = excluded.last_seen,
       state = CASE WHEN q.state = 'DROPPED' THEN 'DROPPED'
                    WHEN q.attempts + 1 >= $5 THEN 'QUARANTINED' ELSE q.state END

-- name: resolve
DELETE FROM sagaz_tiering.quarantine WHERE kind = $1 AND item = $2

-- name: items
-- Behind the item $4 that was last seen at $3.
SELECT kind, item, reason, attempts, state, first_seen, last_seen FROM sagaz_tiering.quarantine
 WHERE ($1 OR state <> 'DROPPED')
   AND ($3::timestamptz IS NULL OR last_seen < $3 OR last_seen = $3 AND (kind || '/' || item) > $4::text)
 ORDER BY last_seen DESC, kind || '/' || item LIMIT $2

-- name: left_alone
SELECT item FROM sagaz_tiering.quarantine WHERE kind = $1 AND item = ANY($2::text[]) AND state <> 'FAILING'

-- name: set_state
UPDATE sagaz_tiering.quarantine SET state = $2, attempts = 0 WHERE item = $1
