-- name: run
SELECT revision, began_at, durable_after, hot_done, done_at FROM sagaz_tiering.reindexing WHERE revision = $1

-- name: forget_others
DELETE FROM sagaz_tiering.reindexing WHERE revision <> $1

-- name: begin
INSERT INTO sagaz_tiering.reindexing (revision, began_at, durable_after)
VALUES ($1, $2, '00000000-0000-0000-0000-000000000000')
ON CONFLICT (revision) DO UPDATE
   SET began_at = excluded.began_at, durable_after = excluded.durable_after, hot_done = false, done_at = NULL, packing = '{}'
 WHERE reindexing.done_at IS NOT NULL

-- name: note_packing
-- Runs of `age` that may have built frames before it began.
UPDATE sagaz_tiering.reindexing
   SET packing = ARRAY(SELECT l.name || ' ' || l.epoch FROM sagaz_tiering.leases l
                        WHERE l.name LIKE 'age/%' AND l.expires_at > clock_timestamp())
 WHERE revision = $1 AND packing IS NULL

-- name: hot_done
UPDATE sagaz_tiering.reindexing SET hot_done = true WHERE revision = $1

-- name: durable_done
UPDATE sagaz_tiering.reindexing SET durable_after = $2 WHERE revision = $1

-- name: hold_run
SELECT 1 FROM sagaz_tiering.reindexing WHERE revision = $1 FOR UPDATE

-- name: behind
SELECT (SELECT count(*) FROM sagaz_tiering.packs p
         WHERE p.state = 'ACTIVE' AND p.live_count > 0 AND p.attributes_revision IS DISTINCT FROM $1) AS packs,
       (SELECT count(*) FROM sagaz_tiering.reindexing r
          JOIN sagaz_tiering.leases l ON l.name || ' ' || l.epoch = ANY(r.packing) AND l.expires_at > clock_timestamp()
         WHERE r.revision = $1) AS ageing

-- name: done
UPDATE sagaz_tiering.reindexing SET done_at = $2 WHERE revision = $1

-- name: durable_values
SELECT snapshot_id, saved_at, value FROM sagaz_tiering.saga_snapshots WHERE snapshot_id = ANY($1::uuid[])

-- name: set_durable
-- Of these saves, those that the rows hold still.
UPDATE sagaz_tiering.saga_snapshots d SET attributes = v.attributes, value = v.value
  FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bytea[]) AS v (snapshot_id, saved_at, attributes, value)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at = v.saved_at

-- name: set_hot
UPDATE sagaz_tiering.hot_saves h SET attributes = v.attributes
  FROM unnest($1::uuid[], $2::timestamptz[], $3::text[]) AS v (snapshot_id, saved_at, attributes)
 WHERE h.snapshot_id = v.snapshot_id AND h.saved_at = v.saved_at AND h.attributes IS DISTINCT FROM v.attributes

-- name: sagas_changed
-- `expire` decides anew when what is archived of these expires.
UPDATE sagaz_tiering.sagas SET changed = true WHERE saga_id = ANY($1::uuid[]) AND kept_us IS NOT NULL AND NOT changed

-- name: frames_changed
UPDATE sagaz_tiering.sagas g SET changed = true
  FROM sagaz_tiering.frames f
 WHERE f.pack_id = $1 AND f.frame_no = ANY($2::integer[]) AND g.saga_id = f.saga_id AND g.kept_us IS NOT NULL
   AND NOT g.changed

-- name: packs
-- With the names of the sagas in each, and whether something in it has attributes.
SELECT p.*,
       ARRAY(SELECT DISTINCT t.saga_name FROM sagaz_tiering.snapshots s JOIN sagaz_tiering.steps t USING (step_id)
              WHERE s.pack_id = p.pack_id) AS saga_names,
       EXISTS (SELECT 1 FROM sagaz_tiering.frames f
                WHERE f.pack_id = p.pack_id AND f.attributes IS NOT NULL) AS has_attributes
  FROM sagaz_tiering.packs p
 WHERE p.state = 'ACTIVE' AND p.live_count > 0 AND p.attributes_revision IS DISTINCT FROM $1 AND p.pack_id > $2
 ORDER BY p.pack_id LIMIT $3

-- name: set_pack
-- Unless it was written anew, or looked into by others, meanwhile.
UPDATE sagaz_tiering.packs SET attributes_revision = $3, attributes_digest = $4
 WHERE pack_id = $1 AND state = 'ACTIVE' AND attributes_digest IS NOT DISTINCT FROM $2

-- name: set_frames
SELECT sagaz_tiering.set_frame_attributes($1, $2, $3)
