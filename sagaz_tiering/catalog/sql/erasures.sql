-- name: rows_of_saga
-- Everything that PostgreSQL knows of a saga's snapshots, durable and archived (saved_at NULL); but for what packs
-- contradict each other about: it may be another saga's.
SELECT snapshot_id, saga_id, saga_name, step_name, status, saved_at FROM sagaz_tiering.saga_snapshots
 WHERE saga_id = $1
UNION ALL
SELECT s.snapshot_id, f.saga_id, t.saga_name, t.step_name, t.status, NULL
  FROM sagaz_tiering.frames f
  JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
 WHERE f.saga_id = $1 AND f.digest IS DISTINCT FROM '00000000-0000-0000-0000-000000000000'

-- name: disputed
-- Snapshots that packs contradict each other about: they may be another saga's, and no erasure takes them.
SELECT s.snapshot_id FROM sagaz_tiering.frames f JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
 WHERE f.saga_id = $1 AND f.digest = '00000000-0000-0000-0000-000000000000'

-- name: drop_places
-- What is left of a saga in packs: versions of snapshots that belong to another saga by now.
WITH gone AS (DELETE FROM sagaz_tiering.snapshots s USING sagaz_tiering.frames f
               WHERE f.saga_id = $1 AND s.pack_id = f.pack_id AND s.frame_no = f.frame_no
                 AND f.digest IS DISTINCT FROM '00000000-0000-0000-0000-000000000000'
              RETURNING s.snapshot_id, s.pack_id),
     counted AS (UPDATE sagaz_tiering.packs p SET live_count = live_count - g.n
                   FROM (SELECT pack_id, count(*) AS n FROM gone GROUP BY pack_id) AS g
                  WHERE p.pack_id = g.pack_id)
SELECT snapshot_id FROM gone

-- name: create
INSERT INTO sagaz_tiering.erasures
    (erasure_id, saga_id, requested_at, who, reason, hot, durable, archived, replays, key_destroyed,
     undecipherable_packs, snapshots)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: forgotten
-- Of these sagas, the ones that were ever erased.
SELECT v.saga_id FROM unnest($1::uuid[]) AS v (saga_id)
  JOIN sagaz_tiering.forgotten f ON f.saga_hash = sha256(uuid_send(v.saga_id))

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

-- name: add_uploads
-- Packs that are being uploaded, or were and may still lie there: what they hold is known once they are published.
INSERT INTO sagaz_tiering.erasure_packs (erasure_id, pack_id)
SELECT $1, pack_id FROM sagaz_tiering.packs
 WHERE state = 'UPLOADING' OR (state = 'ABANDONED' AND deleted_at IS NULL)

-- name: drop_upload
-- It is published now, and erasures wait for it only if it holds what they removed.
DELETE FROM sagaz_tiering.erasure_packs WHERE pack_id = $1

-- name: add_packs_of
-- Packs that were published with bytes of a saga while it was erased.
INSERT INTO sagaz_tiering.erasure_packs (erasure_id, pack_id) SELECT $1, unnest($2::integer[])
ON CONFLICT DO NOTHING

-- name: add_late_pack
-- A pack that was on its way while its saga was erased holds bytes from before: $2 when the oldest deleted were saved.
INSERT INTO sagaz_tiering.erasure_packs (erasure_id, pack_id)
SELECT e.erasure_id, $3
  FROM unnest($1::uuid[], $2::timestamptz[]) AS v (saga_id, saved_at)
  JOIN sagaz_tiering.erasures e ON e.saga_id = v.saga_id AND e.requested_at >= v.saved_at
ON CONFLICT DO NOTHING

-- name: drop_frames
DELETE FROM sagaz_tiering.frames f
 WHERE f.saga_id = $1 AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s
                                       WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no)

-- name: drop_replays
DELETE FROM sagaz_tiering.saga_replay_log WHERE original_saga_id = $1 OR new_saga_id = $1

-- name: cleared
UPDATE sagaz_tiering.erasures SET hot_done_at = $2 WHERE erasure_id = $1

-- name: uncleared
SELECT erasure_id, saga_id, requested_at FROM sagaz_tiering.erasures
 WHERE hot_done_at IS NULL ORDER BY requested_at LIMIT 100

-- name: get
SELECT * FROM sagaz_tiering.erasures WHERE erasure_id = $1

-- name: of_saga
SELECT erasure_id FROM sagaz_tiering.erasures
 WHERE saga_id = $1 AND (snapshots IS DISTINCT FROM 0 OR replays > 0 OR key_destroyed IS NOT NULL)
 ORDER BY requested_at DESC LIMIT 1

-- name: newest
-- Behind the erasure of $2 with id $3.
SELECT * FROM sagaz_tiering.erasures
 WHERE $2::timestamptz IS NULL OR requested_at < $2 OR requested_at = $2 AND erasure_id > $3::uuid
 ORDER BY requested_at DESC, erasure_id LIMIT $1

-- name: packs
-- The packs of an erasure, each with a restore under way that keeps it from being written anew.
SELECT p.object_key, p.storage_class, p.state, p.deleted_at AS gone_at, coalesce(p.deleted_at, p.delete_after) AS gone_by,
       (SELECT r.restore_id FROM sagaz_tiering.restore_packs rp JOIN sagaz_tiering.restores r USING (restore_id)
         WHERE rp.pack_id = p.pack_id AND r.state = 'RESTORING' AND p.state = 'ACTIVE'
         ORDER BY r.requested_at LIMIT 1) AS restore_id
  FROM sagaz_tiering.erasure_packs e JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE e.erasure_id = $1 ORDER BY p.pack_id

-- name: unvacuumed
-- Erasures whose dead rows nobody gave up, if the last vacuum was before that time.
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.erasures
                WHERE vacuumed_at IS NULL AND NOT vacuum_refused
                  AND (durable > 0 OR replays > 0 OR key_destroyed IS NOT NULL))
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.erasures WHERE vacuumed_at > $1)

-- name: not_ours
-- Of these tables, those that this role may not vacuum: only owners may, and from version 17 on who was granted it.
SELECT c.relname::text AS name
  FROM pg_class c
 WHERE c.relnamespace = 'sagaz_tiering'::regnamespace AND c.relname = ANY($1::text[])
   AND NOT pg_has_role(c.relowner, 'USAGE')
   AND NOT CASE WHEN current_setting('server_version_num')::int >= 170000
                THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END

-- name: vacuumed
UPDATE sagaz_tiering.erasures
   SET vacuumed_at = CASE WHEN $2::boolean THEN NULL ELSE $1::timestamptz END, vacuum_refused = $2
 WHERE vacuumed_at IS NULL AND NOT vacuum_refused AND requested_at <= $1
