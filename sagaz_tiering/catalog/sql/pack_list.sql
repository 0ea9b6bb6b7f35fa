-- name: page
-- The newest first, before an id; in one storage class ($3) and state ($4), where they are given.
SELECT pack_id, object_key, state, storage_class, policy, byte_size, snapshot_count, live_count, min_created_at,
       max_created_at, next_expiry_at, created_at, class_since, delete_after, deleted_at
  FROM sagaz_tiering.packs
 WHERE pack_id < $1 AND ($3::text IS NULL OR storage_class = $3) AND ($4::text IS NULL OR state = $4)
 ORDER BY pack_id DESC LIMIT $2

-- name: frames
-- Of a pack: its frames, and the snapshots that are read from each, after a frame.
SELECT f.frame_no, f.saga_id, f.byte_offset, f.byte_length, count(s.snapshot_id) AS live
  FROM sagaz_tiering.frames f LEFT JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
 WHERE f.pack_id = $1 AND f.frame_no > $2 GROUP BY f.pack_id, f.frame_no ORDER BY f.frame_no LIMIT $3
