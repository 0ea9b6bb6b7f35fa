-- name: start
-- $1-$14 in the order of NewPack.
INSERT INTO sagaz_tiering.packs
    (pack_uuid, object_key, state, storage_class, byte_size, snapshot_count, live_count, footer_digest, policy,
     retention_revision, sha256, min_created_at, max_created_at, max_clock_at, next_expiry_at, attributes_revision,
     lease_name, lease_epoch, created_at, class_since)
VALUES ($1, $2, 'UPLOADING', $3, $4, $5, 0, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17)
RETURNING pack_id

-- name: start_over
-- An upload that this catalog did not see the end of, because it is of an older dump.
DELETE FROM sagaz_tiering.packs WHERE pack_uuid = $1 AND state = 'UPLOADING'

-- name: activate
-- A run of `reindex` by other definitions than its frames were built by is not done with this pack.
WITH behind AS (
    UPDATE sagaz_tiering.reindexing r SET done_at = NULL
      FROM sagaz_tiering.packs p
     WHERE p.pack_id = $1 AND p.attributes_revision IS DISTINCT FROM r.revision)
UPDATE sagaz_tiering.packs SET state = 'ACTIVE', live_count = $2, class_since = $3
 WHERE pack_id = $1 AND state = 'UPLOADING'

-- name: drop_durable
-- The durable rows whose exact version is in the pack now, or that an even older save left behind.
DELETE FROM sagaz_tiering.saga_snapshots d
 USING unnest($1::uuid[], $2::timestamptz[], $3::bigint[]) AS v (snapshot_id, saved_at, body_crc)
 WHERE d.snapshot_id = v.snapshot_id
   AND (d.saved_at < v.saved_at OR (d.saved_at = v.saved_at AND d.body_crc = v.body_crc))

-- name: any_durable
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots)

-- name: unevicted
SELECT * FROM sagaz_tiering.packs WHERE state = 'ACTIVE' AND evicted_at IS NULL AND pack_id > $1
 ORDER BY pack_id LIMIT $2

-- name: evicted
UPDATE sagaz_tiering.packs SET evicted_at = $2 WHERE pack_id = $1 AND state = 'ACTIVE'

-- name: movable
-- Active packs of these policies ($2: of none of them) whose youngest snapshot is old enough, not yet in the wanted class or
-- a colder one.
SELECT * FROM sagaz_tiering.packs
 WHERE state = 'ACTIVE' AND live_count > 0 AND (policy = ANY($1::text[])) <> $2::boolean AND max_clock_at <= $3
   AND NOT storage_class = ANY($4::text[]) AND pack_id > $5
 ORDER BY pack_id LIMIT $6

-- name: names
-- What policies look at, of all that lives in a pack; of attributes those named $2.
SELECT DISTINCT t.saga_name, t.step_name, t.status, coalesce(g.status, t.status) AS end_status,
       sagaz_tiering.attributes_named(g.attributes, $2) AS end_attributes
  FROM sagaz_tiering.snapshots s
  JOIN sagaz_tiering.steps t USING (step_id)
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  LEFT JOIN sagaz_tiering.sagas g ON g.saga_id = f.saga_id
 WHERE s.pack_id = $1

-- name: moved
UPDATE sagaz_tiering.packs SET storage_class = $2, class_since = $3 WHERE pack_id = $1 AND state = 'ACTIVE'

-- name: expiring
-- Active packs in which something has expired, or in which nothing lives any more.
SELECT * FROM sagaz_tiering.packs
 WHERE state = 'ACTIVE' AND (next_expiry_at <= $1 OR live_count = 0) AND retention_revision = $2
   AND pack_id > $3
 ORDER BY pack_id LIMIT $4

-- name: active
SELECT * FROM sagaz_tiering.packs WHERE pack_id = ANY($1::integer[]) AND state = 'ACTIVE'

-- name: live_of_policies
SELECT policy, sum(live_count)::bigint AS snapshots FROM sagaz_tiering.packs WHERE state = 'ACTIVE' GROUP BY policy

-- name: expiries
SELECT snapshot_id, expires_at FROM sagaz_tiering.snapshots WHERE pack_id = $1

-- name: count_expired
-- The same, but for sagas $3 too.
SELECT count(*)
  FROM sagaz_tiering.snapshots s
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
 WHERE s.pack_id = $1 AND s.expires_at <= $2 AND NOT f.saga_id = ANY($3::uuid[])
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = f.saga_id AND g.changed)
   AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
            AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status))

-- name: expire_batch
-- Sagas that went on are left out: their expiry is to be decided anew.
WITH gone AS (
    DELETE FROM sagaz_tiering.snapshots
     WHERE snapshot_id IN (SELECT s.snapshot_id
                             FROM sagaz_tiering.snapshots s
                             JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
                             JOIN sagaz_tiering.steps t USING (step_id)
                            WHERE s.pack_id = $1 AND s.expires_at <= $2
                              AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.sagas g
                                               WHERE g.saga_id = f.saga_id AND g.changed)
                              AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
                                       AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status))
                            LIMIT $3)
    RETURNING 1),
counted AS (
    UPDATE sagaz_tiering.packs SET live_count = live_count - (SELECT count(*) FROM gone) WHERE pack_id = $1)
SELECT count(*) FROM gone

-- name: settle_expiry
-- After the last batch: when something expires next. Frames stay as long as their bytes: erasures ask for them.
UPDATE sagaz_tiering.packs
   SET next_expiry_at = (SELECT min(expires_at) FROM sagaz_tiering.snapshots WHERE pack_id = $1)
 WHERE pack_id = $1

-- name: retire
-- Not while two packs claim the same snapshots: what one of them has may be all that is left of the truth.
UPDATE sagaz_tiering.packs SET state = 'RETIRING', retired_at = $2, delete_after = $3
 WHERE pack_id = $1 AND state = 'ACTIVE' AND live_count = 0
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.quarantine q
                    WHERE q.kind = 'claim' AND q.item = object_key AND q.state <> 'DROPPED')

-- name: deletable
SELECT * FROM sagaz_tiering.packs
 WHERE state = 'RETIRING' AND delete_after <= $1 AND pack_id > $2 ORDER BY pack_id LIMIT $3

-- name: deleted
WITH gone AS (
    UPDATE sagaz_tiering.packs SET state = 'DELETED', deleted_at = $2
     WHERE pack_id = ANY($1::integer[]) AND state = 'RETIRING'
    RETURNING pack_id),
bare AS (DELETE FROM sagaz_tiering.frames f USING gone WHERE f.pack_id = gone.pack_id)
SELECT pack_id FROM gone

-- name: outdated
-- Active packs whose expiry dates come from other policy texts than today's.
SELECT * FROM sagaz_tiering.packs
 WHERE state = 'ACTIVE' AND retention_revision <> $1 AND pack_id > $2 ORDER BY pack_id LIMIT $3

-- name: recompute_expiry
UPDATE sagaz_tiering.snapshots s SET expires_at = v.expires_at
  FROM unnest($2::uuid[], $3::timestamptz[]) AS v (snapshot_id, expires_at)
 WHERE s.snapshot_id = v.snapshot_id AND s.pack_id = $1

-- name: recomputed
UPDATE sagaz_tiering.packs
   SET retention_revision = $2,
       next_expiry_at = (SELECT min(expires_at) FROM sagaz_tiering.snapshots WHERE pack_id = $1)
 WHERE pack_id = $1 AND state = 'ACTIVE'

-- name: unfinished
-- Uploads that nobody will finish: begun before the deadline.
SELECT * FROM sagaz_tiering.packs WHERE state = 'UPLOADING' AND created_at < $1 AND pack_id > $2
 ORDER BY pack_id LIMIT $3

-- name: abandon
UPDATE sagaz_tiering.packs SET state = 'ABANDONED' WHERE pack_id = $1 AND state = 'UPLOADING'

-- name: abandoned_gone
-- Uploads that were given up, begun before $2, of which the bucket that was just listed has nothing.
UPDATE sagaz_tiering.packs p SET deleted_at = $1
 WHERE p.state = 'ABANDONED' AND p.deleted_at IS NULL AND p.created_at <= $2
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.strays s WHERE s.object_key = p.object_key)

-- name: live_keys
-- Of these pack ids (from object names), the ones whose objects must stay.
SELECT pack_uuid FROM sagaz_tiering.packs
 WHERE pack_uuid = ANY($1::uuid[]) AND state IN ('UPLOADING', 'ACTIVE', 'RETIRING')

-- name: see_stray
INSERT INTO sagaz_tiering.strays (object_key, byte_size, first_seen) VALUES ($1, $2, $3)
ON CONFLICT (object_key) DO UPDATE SET byte_size = excluded.byte_size
RETURNING first_seen

-- name: peek_stray
SELECT first_seen FROM sagaz_tiering.strays WHERE object_key = $1

-- name: forget_strays
DELETE FROM sagaz_tiering.strays WHERE object_key = ANY($1::text[])

-- name: totals
SELECT storage_class, state, count(*) AS packs, coalesce(sum(byte_size), 0)::bigint AS bytes,
       coalesce(sum(live_count), 0)::bigint AS snapshots,
       coalesce(sum(snapshot_count), 0)::bigint AS packed
  FROM sagaz_tiering.packs WHERE state IN ('UPLOADING', 'ACTIVE', 'RETIRING')
 GROUP BY storage_class, state ORDER BY storage_class, state

-- name: known
SELECT pack_uuid FROM sagaz_tiering.packs WHERE pack_uuid = ANY($1::uuid[])

-- name: any_evicted_since
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.packs
                WHERE state IN ('ACTIVE', 'RETIRING') AND ($1::timestamptz IS NULL OR evicted_at IS NULL OR evicted_at >= $1))
