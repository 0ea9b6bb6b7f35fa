-- name: candidates
-- Active packs that hold bytes of an erased saga, or too many dead ones, or too little at all: $1 live share below
-- which dead bytes are too many, $2 bytes below which a pack is too small, $3 after, $4 how many. Not those that a
-- restore waits for, nor those that contradict another pack.
SELECT p.*, e.pack_id IS NOT NULL AS erased
  FROM sagaz_tiering.packs p
  LEFT JOIN (SELECT DISTINCT pack_id FROM sagaz_tiering.erasure_packs) AS e USING (pack_id)
 WHERE p.state = 'ACTIVE' AND p.live_count > 0 AND p.evicted_at IS NOT NULL AND p.pack_id > $3
   AND (e.pack_id IS NOT NULL OR p.live_count < p.snapshot_count * $1::float8 OR p.byte_size < $2)
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.restore_packs rp JOIN sagaz_tiering.restores r USING (restore_id)
                    WHERE rp.pack_id = p.pack_id AND r.state = 'RESTORING')
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.quarantine q
                    WHERE q.kind = 'claim' AND q.item = p.object_key AND q.state <> 'DROPPED')
 ORDER BY p.pack_id LIMIT $4

-- name: live
-- The live snapshots of a pack, by frame.
SELECT frame_no, snapshot_id, expires_at FROM sagaz_tiering.snapshots WHERE pack_id = $1

-- name: attributes
-- Of the frames of a pack, those that have some.
SELECT frame_no, attributes FROM sagaz_tiering.frames WHERE pack_id = $1 AND attributes IS NOT NULL

-- name: erased
-- Whether one of these sagas has no frame in the old packs any more: an erasure takes them all, nothing adds one.
SELECT EXISTS (SELECT FROM unnest($2::uuid[]) AS v (saga_id)
                WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.frames f
                                   WHERE f.saga_id = v.saga_id AND f.pack_id = ANY($1::integer[])))

-- name: reindexed
-- Whether one of these packs was looked into for attributes since it was read.
SELECT EXISTS (SELECT FROM unnest($1::integer[], $2::text[], $3::bytea[]) AS v (pack_id, revision, digest)
                 JOIN sagaz_tiering.packs p USING (pack_id)
                WHERE (p.attributes_revision, p.attributes_digest) IS DISTINCT FROM (v.revision, v.digest))

-- name: move
-- Places in the old packs become places in the new one; what was deleted meanwhile is not there to be moved.
UPDATE sagaz_tiering.snapshots s SET pack_id = $1, frame_no = v.frame_no
  FROM unnest($3::uuid[], $4::integer[]) AS v (snapshot_id, frame_no)
 WHERE s.snapshot_id = v.snapshot_id AND s.pack_id = ANY($2::integer[])

-- name: trim_frames
-- What was deleted meanwhile carries nothing.
UPDATE sagaz_tiering.frames f
   SET attributes = sagaz_tiering.attributes_of_present(f.pack_id, f.frame_no, f.attributes)
 WHERE f.pack_id = $1 AND f.attributes IS NOT NULL

-- name: left_behind
SELECT count(*) FROM sagaz_tiering.snapshots WHERE pack_id = ANY($1::integer[])

-- name: next_expiry
UPDATE sagaz_tiering.packs
   SET next_expiry_at = (SELECT min(expires_at) FROM sagaz_tiering.snapshots WHERE pack_id = $1)
 WHERE pack_id = $1

-- name: retire_old
UPDATE sagaz_tiering.packs SET state = 'RETIRING', live_count = 0, retired_at = $2, delete_after = $3
 WHERE pack_id = ANY($1::integer[]) AND state = 'ACTIVE'
