-- name: pages
-- Packs whose objects must be there, in key order.
SELECT * FROM sagaz_tiering.packs WHERE state IN ('ACTIVE', 'RETIRING') AND object_key > $1
 ORDER BY object_key LIMIT $2

-- name: oldest
-- Active packs that were looked into longest ago.
SELECT * FROM sagaz_tiering.packs
 WHERE state = 'ACTIVE' AND (scrubbed_at IS NULL OR scrubbed_at <= $1)
 ORDER BY scrubbed_at NULLS FIRST, pack_id LIMIT $2

-- name: due
SELECT count(*) FILTER (WHERE scrubbed_at IS NULL OR scrubbed_at <= $1) AS due,
       count(*) FILTER (WHERE scrubbed_at > $1) AS done
  FROM sagaz_tiering.packs WHERE state = 'ACTIVE'

-- name: by_key
SELECT * FROM sagaz_tiering.packs WHERE object_key = $1

-- name: scrubbed
UPDATE sagaz_tiering.packs SET scrubbed_at = $2 WHERE pack_id = $1

-- name: set_class
UPDATE sagaz_tiering.packs SET storage_class = $2, class_since = $3 WHERE pack_id = $1

-- name: frames
SELECT frame_no, saga_id, byte_offset, byte_length, key_id, uuid_send(digest) AS digest FROM sagaz_tiering.frames
 WHERE pack_id = $1 ORDER BY frame_no

-- name: set_footer_digest
UPDATE sagaz_tiering.packs SET footer_digest = $2 WHERE pack_id = $1

-- name: set_frames
UPDATE sagaz_tiering.frames f
   SET saga_id = v.saga_id, byte_offset = v.byte_offset, byte_length = v.byte_length, key_id = v.key_id,
       digest = encode(v.digest, 'hex')::uuid
  FROM unnest($2::integer[], $3::uuid[], $4::integer[], $5::integer[], $6::uuid[], $7::bytea[])
       AS v (frame_no, saga_id, byte_offset, byte_length, key_id, digest)
 WHERE f.pack_id = $1 AND f.frame_no = v.frame_no

-- name: set_attributes
-- What the snapshots of these frames of a pack can be found by.
SELECT sagaz_tiering.set_frame_attributes($1, $2, $3)

-- name: set_attributes_digest
UPDATE sagaz_tiering.packs SET attributes_digest = $2 WHERE pack_id = $1

-- name: without_attributes
SELECT p.* FROM sagaz_tiering.packs p
 WHERE p.state = 'ACTIVE' AND p.pack_id > $2
   AND EXISTS (SELECT 1 FROM sagaz_tiering.frames f
                WHERE f.pack_id = p.pack_id AND f.key_id = ANY($1::uuid[]) AND f.attributes IS NULL)
 ORDER BY p.pack_id LIMIT $3

-- name: dispute_packs
UPDATE sagaz_tiering.packs SET footer_digest = $2 WHERE object_key = ANY($1::text[])

-- name: dispute_frames
-- Nor is it known when what is in them expires.
WITH dated AS (UPDATE sagaz_tiering.snapshots SET expires_at = NULL WHERE snapshot_id = ANY($1::uuid[]))
UPDATE sagaz_tiering.frames f SET digest = $2
  FROM sagaz_tiering.snapshots s
 WHERE s.snapshot_id = ANY($1::uuid[]) AND f.pack_id = s.pack_id AND f.frame_no = s.frame_no

-- name: snapshot_ids
SELECT snapshot_id FROM sagaz_tiering.snapshots WHERE pack_id = $1

-- name: durable_of
SELECT snapshot_id FROM sagaz_tiering.saga_snapshots WHERE snapshot_id = ANY($1::uuid[])

-- name: let_go
-- These places are of bytes that are gone; a nearer tier has the snapshots, so they are packed anew.
WITH gone AS (DELETE FROM sagaz_tiering.snapshots WHERE pack_id = $1 AND snapshot_id = ANY($2::uuid[]) RETURNING 1)
UPDATE sagaz_tiering.packs SET live_count = live_count - (SELECT count(*) FROM gone) WHERE pack_id = $1
