-- name: begin_notes
-- Whoever deletes one of these waits until they are noted, or has done it and is seen.
SELECT pg_advisory_xact_lock_shared($1, v.shard)
  FROM (SELECT DISTINCT get_byte(uuid_send(u.id), 15) & 31 AS shard FROM unnest($2::uuid[]) AS u (id) ORDER BY 1) AS v

-- name: wait_for_notes
SELECT pg_advisory_xact_lock($1, v.shard)
  FROM (SELECT DISTINCT get_byte(uuid_send(u.id), 15) & 31 AS shard FROM unnest($2::uuid[]) AS u (id) ORDER BY 1) AS v

-- name: note
-- Redis alone acknowledged these. What was deleted or forgotten since is not noted any more. Returns how often Redis had
-- been found to be another one by then.
WITH noted AS (
INSERT INTO sagaz_tiering.hot_saves AS h
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, expires_at, attributes,
     retention_until)
SELECT v.* FROM json_to_recordset($1::json)
       AS v (snapshot_id uuid, saga_id uuid, saga_name text, step_name text, step_index integer, status text,
             created_at timestamptz, saved_at timestamptz, expires_at timestamptz, attributes text,
             retention_until timestamptz)
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.tombstones t
                    WHERE t.snapshot_id = v.snapshot_id AND v.saved_at <= t.deleted_at)
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.forgotten f
                    WHERE f.saga_hash = sha256(uuid_send(v.saga_id)) AND v.saved_at <= f.forgotten_at)
 ORDER BY v.snapshot_id
ON CONFLICT (snapshot_id) DO UPDATE
   SET saga_id = excluded.saga_id, saga_name = excluded.saga_name, step_name = excluded.step_name,
       step_index = excluded.step_index, status = excluded.status, created_at = excluded.created_at,
       saved_at = excluded.saved_at, expires_at = excluded.expires_at, lost_at = NULL,
       attributes = excluded.attributes, retention_until = excluded.retention_until
 WHERE excluded.saved_at > h.saved_at)
SELECT changes FROM sagaz_tiering.hot_tier

-- name: forgotten
-- Of these saves, the ones whose saga was forgotten afterwards.
SELECT v.snapshot_id FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS v (snapshot_id, saga_id, saved_at)
  JOIN sagaz_tiering.forgotten f ON f.saga_hash = sha256(uuid_send(v.saga_id))
 WHERE v.saved_at <= f.forgotten_at

-- name: packed_since
-- Of these, the ones that are in another pack than that.
SELECT s.snapshot_id FROM sagaz_tiering.snapshots s
  JOIN unnest($1::uuid[], $2::integer[]) AS v (snapshot_id, pack_id) USING (snapshot_id)
 WHERE s.pack_id <> v.pack_id

-- name: not_elsewhere
-- What Redis alone has, or had, of a saga $1 or of a snapshot $2, expired or not. Of what is `packed` too the
-- pack tells which save it has: one that was made while the pack was being filled is not in it.
SELECT h.*, EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = h.snapshot_id) AS packed FROM sagaz_tiering.hot_saves h
 WHERE (h.saga_id = $1 OR h.snapshot_id = $2)
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                    WHERE d.snapshot_id = h.snapshot_id AND d.saved_at >= h.saved_at)

-- name: noted
-- Of these saves, the ones that are noted.
SELECT h.snapshot_id FROM sagaz_tiering.hot_saves h
  JOIN unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, saved_at) USING (snapshot_id)
 WHERE h.saved_at = v.saved_at

-- name: page
-- A batch of all, by id, after an id; of the lost ones only ($3), or of all.
SELECT * FROM sagaz_tiering.hot_saves
 WHERE snapshot_id > $1 AND (NOT $3 OR lost_at IS NOT NULL) ORDER BY snapshot_id LIMIT $2

-- name: ended
-- A batch of those whose noted expiry has passed, with their own dates; where that was not told, only what is lost.
SELECT *, nullif(retention_until, 'infinity') AS own_until FROM sagaz_tiering.hot_saves
 WHERE expires_at <= $1 AND (expires_at, snapshot_id) > ($2, $3)
   AND (retention_until IS NOT NULL OR lost_at IS NOT NULL) ORDER BY expires_at, snapshot_id LIMIT $4

-- name: postpone
-- These saves expire then (NULL: never).
UPDATE sagaz_tiering.hot_saves h SET expires_at = v.expires_at
  FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS v (snapshot_id, saved_at, expires_at)
 WHERE h.snapshot_id = v.snapshot_id AND h.saved_at = v.saved_at

-- name: keep
-- Those of these that nobody removes before we commit, and that PostgreSQL has not got in this save or a newer one.
SELECT h.* FROM sagaz_tiering.hot_saves h
 WHERE h.snapshot_id = ANY($1::uuid[]) AND NOT EXISTS (
       SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = h.snapshot_id AND d.saved_at >= h.saved_at)
 ORDER BY h.snapshot_id FOR UPDATE SKIP LOCKED

-- name: only_there
-- The same for a dry run, which locks nothing.
SELECT h.* FROM sagaz_tiering.hot_saves h
 WHERE h.snapshot_id = ANY($1::uuid[]) AND NOT EXISTS (
       SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = h.snapshot_id AND d.saved_at >= h.saved_at)

-- name: lose
-- These saves are lost; how many of them were not known to be.
WITH lost AS (UPDATE sagaz_tiering.hot_saves h SET lost_at = $3
                FROM unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, saved_at)
               WHERE h.snapshot_id = v.snapshot_id AND h.saved_at = v.saved_at AND h.lost_at IS NULL
              RETURNING h.snapshot_id),
     counted AS (UPDATE sagaz_tiering.hot_tier SET lost_ever = lost_ever + (SELECT count(*) FROM lost))
SELECT count(*) FROM lost

-- name: drop
-- These saves are not Redis' alone any more.
DELETE FROM sagaz_tiering.hot_saves h USING unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, saved_at)
 WHERE h.snapshot_id = v.snapshot_id AND h.saved_at <= v.saved_at
RETURNING h.snapshot_id

-- name: any
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves)
