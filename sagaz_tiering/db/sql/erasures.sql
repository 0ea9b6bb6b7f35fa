-- name: saga_ids_of
-- Everything that PostgreSQL knows of a saga's snapshots, durable and archived.
SELECT snapshot_id FROM sagaz_tiering.saga_snapshots WHERE saga_id = $1
UNION
SELECT s.snapshot_id FROM sagaz_tiering.frames f JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
 WHERE f.saga_id = $1

-- name: create
INSERT INTO sagaz_tiering.erasures
    (erasure_id, saga_id, requested_at, who, reason, hot, durable, archived, replays, key_destroyed,
     undecipherable_packs)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: count_shredded
-- Packs that hold bytes of a saga only as these destroyed keys encrypted them.
SELECT count(*) FROM (
    SELECT f.pack_id FROM sagaz_tiering.frames f JOIN sagaz_tiering.packs p USING (pack_id)
     WHERE f.saga_id = $1 AND p.state IN ('ACTIVE', 'RETIRING')
     GROUP BY f.pack_id HAVING bool_and(coalesce(f.key_id = ANY($2::uuid[]), false))) AS shredded

-- name: add_packs
-- Packs that hold readable bytes of a saga: $3 are the keys that were destroyed with it.
INSERT INTO sagaz_tiering.erasure_packs (erasure_id, pack_id)
SELECT DISTINCT $1::uuid, f.pack_id FROM sagaz_tiering.frames f JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE f.saga_id = $2 AND p.state IN ('ACTIVE', 'RETIRING')
   AND NOT coalesce(f.key_id = ANY($3::uuid[]), false)

-- name: add_late_pack
-- A pack that was on its way while its saga was erased holds bytes of it too.
INSERT INTO sagaz_tiering.erasure_packs (erasure_id, pack_id)
SELECT erasure_id, $2 FROM sagaz_tiering.erasures WHERE saga_id = ANY($1::uuid[])
ON CONFLICT DO NOTHING

-- name: erased_since
-- Of these sagas, one that was erased at or after that time.
SELECT saga_id FROM sagaz_tiering.erasures WHERE saga_id = ANY($1::uuid[]) AND requested_at >= $2 LIMIT 1

-- name: drop_frames
DELETE FROM sagaz_tiering.frames WHERE saga_id = $1

-- name: drop_replays
DELETE FROM sagaz_tiering.saga_replay_log WHERE original_saga_id = $1 OR new_saga_id = $1

-- name: cleared
UPDATE sagaz_tiering.erasures SET hot_done_at = $2 WHERE erasure_id = $1

-- name: uncleared
SELECT erasure_id, saga_id FROM sagaz_tiering.erasures WHERE hot_done_at IS NULL ORDER BY requested_at LIMIT 100

-- name: get
SELECT * FROM sagaz_tiering.erasures WHERE erasure_id = $1

-- name: newest
SELECT * FROM sagaz_tiering.erasures ORDER BY requested_at DESC, erasure_id LIMIT $1

-- name: packs
SELECT p.object_key, p.storage_class, p.state, p.delete_after, p.deleted_at
  FROM sagaz_tiering.erasure_packs e JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE e.erasure_id = $1 ORDER BY p.pack_id
