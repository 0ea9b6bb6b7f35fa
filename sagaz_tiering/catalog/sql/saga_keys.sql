-- name: writing
-- The keys that new frames of these sagas are encrypted with.
SELECT key_id, saga_id, wrapped, master_id FROM sagaz_tiering.saga_keys WHERE saga_id = ANY($1::uuid[]) AND number = 0

-- name: add
-- Keys for sagas without one; of two at once the first stays.
INSERT INTO sagaz_tiering.saga_keys (key_id, saga_id, wrapped, master_id, created_at)
SELECT v.key_id, v.saga_id, v.wrapped, v.master_id, $5
  FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[]) AS v (key_id, saga_id, wrapped, master_id)
 ORDER BY v.saga_id
ON CONFLICT (saga_id, number) DO NOTHING
RETURNING key_id, saga_id

-- name: by_id
SELECT key_id, saga_id, wrapped, master_id FROM sagaz_tiering.saga_keys WHERE key_id = ANY($1::uuid[])

-- name: there
SELECT key_id FROM sagaz_tiering.saga_keys WHERE key_id = ANY($1::uuid[])

-- name: destroy
DELETE FROM sagaz_tiering.saga_keys WHERE saga_id = $1 RETURNING key_id

-- name: by_master
SELECT master_id, count(*) AS keys FROM sagaz_tiering.saga_keys GROUP BY master_id ORDER BY master_id

-- name: one_of_each_master
-- From one master key to the next by the index, past the rest of what each wraps.
WITH RECURSIVE found AS (
    (SELECT key_id, master_id FROM sagaz_tiering.saga_keys ORDER BY master_id LIMIT 1)
    UNION ALL
    SELECT following.key_id, following.master_id FROM found CROSS JOIN LATERAL (
           SELECT key_id, master_id FROM sagaz_tiering.saga_keys
            WHERE master_id > found.master_id ORDER BY master_id LIMIT 1) following)
SELECT k.key_id, k.saga_id, k.wrapped, k.master_id
  FROM found CROSS JOIN LATERAL (SELECT * FROM sagaz_tiering.saga_keys k WHERE k.key_id = found.key_id LIMIT 1) k
 ORDER BY k.master_id

-- name: frames
-- Encrypted frames with a live snapshot: how many, and of how many the key is gone.
SELECT count(*) AS encrypted, count(*) FILTER (WHERE k.key_id IS NULL) AS keyless
  FROM sagaz_tiering.frames f LEFT JOIN sagaz_tiering.saga_keys k ON k.key_id = f.key_id
 WHERE f.key_id IS NOT NULL
   AND EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no)

-- name: some_frames
-- The same of at most $1 frames, by their sagas from $2 on and around; those that are not encrypted are `looked` at too.
WITH looked AS (
    (SELECT pack_id, frame_no, key_id FROM sagaz_tiering.frames WHERE saga_id >= $2 ORDER BY saga_id LIMIT $1)
    UNION ALL
    (SELECT pack_id, frame_no, key_id FROM sagaz_tiering.frames WHERE saga_id < $2 ORDER BY saga_id LIMIT $1)
    LIMIT $1)
SELECT count(*) AS looked, count(live.there) AS encrypted,
       count(live.there) FILTER (WHERE key.there IS NULL) AS keyless
  FROM looked f
  LEFT JOIN LATERAL (SELECT true AS there FROM sagaz_tiering.snapshots s WHERE f.key_id IS NOT NULL
                        AND s.pack_id = f.pack_id AND s.frame_no = f.frame_no LIMIT 1) live ON true
  LEFT JOIN LATERAL (SELECT true AS there FROM sagaz_tiering.saga_keys k WHERE k.key_id = f.key_id LIMIT 1) key ON true

-- name: under_others
-- Keys that another master key wraps than $1, after a key.
SELECT key_id, saga_id, wrapped, master_id FROM sagaz_tiering.saga_keys
 WHERE master_id <> $1 AND key_id > $2 ORDER BY key_id LIMIT $3

-- name: rewrap
-- New wrappings, of keys that are still there and still wrapped as they were when they were read.
UPDATE sagaz_tiering.saga_keys k SET wrapped = v.wrapped, master_id = v.master_id
  FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::text[]) AS v (key_id, before, wrapped, master_id)
 WHERE k.key_id = v.key_id AND k.wrapped = v.before

-- name: page
SELECT key_id, saga_id, wrapped, master_id, created_at FROM sagaz_tiering.saga_keys
 WHERE key_id > $1 ORDER BY key_id LIMIT $2

-- name: erased
-- Of these keys, those of sagas that were erased since they were made.
SELECT v.key_id FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS v (key_id, saga_id, created_at)
 WHERE EXISTS (SELECT 1 FROM sagaz_tiering.erasures e WHERE e.saga_id = v.saga_id AND e.requested_at >= v.created_at)

-- name: import
-- A key from a backup, unless it is here or its saga was erased since it was made; beside a newer key it is for reading.
INSERT INTO sagaz_tiering.saga_keys (key_id, saga_id, number, wrapped, master_id, created_at)
SELECT $1, $2, (SELECT coalesce(max(number) + 1, 0) FROM sagaz_tiering.saga_keys WHERE saga_id = $2), $3, $4, $5
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.erasures WHERE saga_id = $2 AND requested_at >= $5)
ON CONFLICT (key_id) DO NOTHING
