-- name: find
-- Where PostgreSQL knows a snapshot to be: the durable copy, a pack, or both, in one consistent look; and where its saga
-- ends.
SELECT found.*, g.ended_at, g.end_step, g.end_id, g.status AS end_status, g.attributes AS end_attributes, g.kept_us,
       (SELECT up_to IS NULL FROM sagaz_tiering.sagas_filled) AS filled
  FROM (
  SELECT d.snapshot_id, d.saga_id, d.saga_name, d.step_name, d.step_index, d.status, d.created_at, d.expires_at,
         d.saved_at, d.retention_until, NULL::timestamptz AS max_clock_at, NULL::text AS dated_by, NULL::text AS policy,
         d.value AS value,
         NULL::integer AS pack_id, NULL::text AS object_key, NULL::integer AS "offset",
         NULL::integer AS length, NULL::text AS storage_class, NULL::bigint AS object_size, NULL::boolean AS encrypted,
         NULL::uuid AS key_id, NULL::bytea AS wrapped, NULL::text AS master_id, NULL::bytea AS digest,
         NULL::integer AS most
    FROM sagaz_tiering.saga_snapshots d
   WHERE d.snapshot_id = $1
  UNION ALL
  SELECT s.snapshot_id, f.saga_id, t.saga_name, t.step_name, t.step_index, t.status, s.created_at, s.expires_at,
         NULL, NULL, p.max_clock_at, p.retention_revision, p.policy, NULL,
         f.pack_id, p.object_key, f.byte_offset, f.byte_length, p.storage_class, p.byte_size, f.key_id IS NOT NULL,
         f.key_id, k.wrapped, k.master_id, uuid_send(f.digest), p.snapshot_count
    FROM sagaz_tiering.snapshots s
    JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
    JOIN sagaz_tiering.packs p USING (pack_id)
    JOIN sagaz_tiering.steps t USING (step_id)
    LEFT JOIN sagaz_tiering.saga_keys k ON k.key_id = f.key_id
   WHERE s.snapshot_id = $1) AS found
  LEFT JOIN sagaz_tiering.sagas g ON g.saga_id = found.saga_id

-- name: find_of_saga
-- The newest of a saga, durable and archived, expired ones that nobody removed yet included (policies decide that):
-- $2 not after, $3 step name, $4 limit, $5 values too. Where it ends also if there is none: then in a row without an id.
SELECT found.*, g.ended_at, g.end_step, g.end_id, g.status AS end_status, g.attributes AS end_attributes, g.kept_us,
       (SELECT up_to IS NULL FROM sagaz_tiering.sagas_filled) AS filled
  FROM (SELECT $1::uuid AS asked) AS question
  LEFT JOIN sagaz_tiering.sagas g ON g.saga_id = asked
  LEFT JOIN (
 (SELECT d.snapshot_id, d.saga_id, d.saga_name, d.step_name, d.step_index, d.status, d.created_at, d.expires_at,
         d.saved_at, d.retention_until, NULL::timestamptz AS max_clock_at, NULL::text AS dated_by, NULL::text AS policy,
         CASE WHEN $5::boolean THEN d.value END AS value,
         NULL::integer AS pack_id, NULL::text AS object_key, NULL::integer AS "offset",
         NULL::integer AS length, NULL::text AS storage_class, NULL::bigint AS object_size, NULL::boolean AS encrypted,
         NULL::uuid AS key_id, NULL::bytea AS wrapped, NULL::text AS master_id, NULL::bytea AS digest,
         NULL::integer AS most
    FROM sagaz_tiering.saga_snapshots d
   WHERE d.saga_id = $1
     AND ($2::timestamptz IS NULL OR d.created_at <= $2) AND ($3::text IS NULL OR d.step_name = $3)
   ORDER BY d.created_at DESC, d.step_index DESC, d.snapshot_id DESC LIMIT $4)
 UNION ALL
 (SELECT s.snapshot_id, f.saga_id, t.saga_name, t.step_name, t.step_index, t.status, s.created_at, s.expires_at,
         NULL, NULL, p.max_clock_at, p.retention_revision, p.policy, NULL,
         f.pack_id, p.object_key, f.byte_offset, f.byte_length, p.storage_class, p.byte_size, f.key_id IS NOT NULL,
         f.key_id, k.wrapped, k.master_id, uuid_send(f.digest), p.snapshot_count
    FROM sagaz_tiering.frames f
    JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
    JOIN sagaz_tiering.packs p USING (pack_id)
    JOIN sagaz_tiering.steps t USING (step_id)
    LEFT JOIN sagaz_tiering.saga_keys k ON k.key_id = f.key_id
   WHERE f.saga_id = $1
     AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = s.snapshot_id)
     AND ($2::timestamptz IS NULL OR s.created_at <= $2) AND ($3::text IS NULL OR t.step_name = $3)
   ORDER BY s.created_at DESC, t.step_index DESC, s.snapshot_id DESC LIMIT $4)
) AS found ON true
ORDER BY found.created_at DESC, found.step_index DESC, found.snapshot_id DESC

-- name: packs_of
-- Which of these snapshots are in a pack already, and in which.
SELECT s.snapshot_id, s.pack_id, p.object_key, p.pack_uuid, p.storage_class, p.byte_size, p.snapshot_count,
       p.footer_digest
  FROM sagaz_tiering.snapshots s JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE s.snapshot_id = ANY($1::uuid[])

-- name: delete_durable
DELETE FROM sagaz_tiering.saga_snapshots d
 USING unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, until)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at <= v.until
RETURNING d.snapshot_id

-- name: delete_archived
WITH gone AS (DELETE FROM sagaz_tiering.snapshots WHERE snapshot_id = ANY($1::uuid[])
              RETURNING snapshot_id, pack_id),
     counted AS (UPDATE sagaz_tiering.packs p SET live_count = live_count - g.n
                   FROM (SELECT pack_id, count(*) AS n FROM gone GROUP BY pack_id) AS g
                  WHERE p.pack_id = g.pack_id)
SELECT snapshot_id, pack_id FROM gone

-- name: bury
-- Deleted here from now on; Redis follows.
INSERT INTO sagaz_tiering.tombstones (snapshot_id, deleted_at, in_redis)
SELECT v.snapshot_id, v.until, true FROM unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, until)
ON CONFLICT (snapshot_id) DO UPDATE
   SET deleted_at = greatest(excluded.deleted_at, tombstones.deleted_at), in_redis = true

-- name: half_deleted
SELECT snapshot_id, deleted_at FROM sagaz_tiering.tombstones WHERE in_redis ORDER BY snapshot_id LIMIT $1

-- name: gone_from_redis
-- Unless they were deleted anew meanwhile; in the order in which deletions lock them.
WITH done AS (SELECT t.snapshot_id
                FROM sagaz_tiering.tombstones t
                JOIN unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, until) USING (snapshot_id)
               WHERE t.in_redis AND t.deleted_at <= v.until ORDER BY t.snapshot_id FOR UPDATE OF t)
UPDATE sagaz_tiering.tombstones t SET in_redis = false FROM done WHERE t.snapshot_id = done.snapshot_id

-- name: buried
-- Of these saves, the ones that were deleted afterwards, or forgotten with their saga. One whose row is there came after
-- the delete, which left none: it was being stored while the delete was committed, and did not see it.
SELECT v.snapshot_id
  FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS v (snapshot_id, saga_id, saved_at)
 WHERE (EXISTS (SELECT 1 FROM sagaz_tiering.tombstones t
                 WHERE t.snapshot_id = v.snapshot_id AND v.saved_at <= t.deleted_at)
        OR EXISTS (SELECT 1 FROM sagaz_tiering.forgotten f
                    WHERE f.saga_hash = sha256(uuid_send(v.saga_id)) AND v.saved_at <= f.forgotten_at))
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                    WHERE d.snapshot_id = v.snapshot_id AND d.saved_at = v.saved_at)

-- name: moved
-- Of these saves, the ones that a later durable save put under another saga.
SELECT v.snapshot_id
  FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS v (snapshot_id, saga_id, saved_at)
  JOIN sagaz_tiering.saga_snapshots d ON d.snapshot_id = v.snapshot_id
 WHERE d.saga_id <> v.saga_id AND d.saved_at > v.saved_at

-- name: tombstones
SELECT snapshot_id FROM sagaz_tiering.tombstones
 WHERE ($1::timestamptz IS NULL OR deleted_at >= $1) AND snapshot_id > $2 ORDER BY snapshot_id LIMIT $3

-- name: prune_tombstones
DELETE FROM sagaz_tiering.tombstones WHERE deleted_at < $1 AND NOT in_redis

-- name: saga_ids
-- Sagas that PostgreSQL knows a snapshot of, ascending: $1 after, $2 how many.
SELECT saga_id FROM (
 (SELECT DISTINCT d.saga_id FROM sagaz_tiering.saga_snapshots d
   WHERE ($1::uuid IS NULL OR d.saga_id > $1)
   ORDER BY d.saga_id LIMIT $2)
 UNION
 (SELECT DISTINCT f.saga_id FROM sagaz_tiering.frames f
   WHERE ($1::uuid IS NULL OR f.saga_id > $1)
     AND EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no)
   ORDER BY f.saga_id LIMIT $2)
) AS found
ORDER BY saga_id LIMIT $2
