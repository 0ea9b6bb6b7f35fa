-- name: next_range
-- The last of the next packs after $1 that hold about $3 snapshots together, at most $2 packs; NULL behind the end.
SELECT max(pack_id) FROM (
    SELECT pack_id, sum(live_count) OVER (ORDER BY pack_id) - live_count AS before
      FROM (SELECT pack_id, live_count FROM sagaz_tiering.packs WHERE pack_id > $1 ORDER BY pack_id LIMIT $2) AS p) AS r
 WHERE before < $3

-- name: totals
-- What a range of packs holds: $1 after, $2 up to (NULL: the end).
SELECT (SELECT count(*) FROM sagaz_tiering.packs p
         WHERE p.pack_id > $1 AND ($2::integer IS NULL OR p.pack_id <= $2) AND p.state = 'ACTIVE') AS packs,
       (SELECT count(*) FROM sagaz_tiering.frames f
         WHERE f.pack_id > $1 AND ($2::integer IS NULL OR f.pack_id <= $2)) AS frames,
       (SELECT count(*) FROM sagaz_tiering.snapshots s
         WHERE s.pack_id > $1 AND ($2::integer IS NULL OR s.pack_id <= $2)) AS snapshots

-- name: miscounted
-- Packs whose count is not that of their rows, or that hold snapshots without being active.
SELECT p.pack_id, p.object_key, p.state, p.live_count, p.snapshot_count, coalesce(n.rows, 0) AS rows
  FROM sagaz_tiering.packs p
  LEFT JOIN (SELECT s.pack_id, count(*) AS rows FROM sagaz_tiering.snapshots s
              WHERE s.pack_id > $1 AND ($2::integer IS NULL OR s.pack_id <= $2) GROUP BY s.pack_id) AS n USING (pack_id)
 WHERE p.pack_id > $1 AND ($2::integer IS NULL OR p.pack_id <= $2)
   AND (coalesce(n.rows, 0) <> CASE WHEN p.state = 'ACTIVE' THEN p.live_count ELSE 0 END
        OR p.live_count > p.snapshot_count)
 ORDER BY p.pack_id LIMIT $3

-- name: misdated
-- Active packs with a snapshot that expires before the pack is looked at.
SELECT p.pack_id, p.object_key, p.next_expiry_at, n.first
  FROM sagaz_tiering.packs p
  JOIN (SELECT s.pack_id, min(s.expires_at) AS first FROM sagaz_tiering.snapshots s
         WHERE s.pack_id > $1 AND ($2::integer IS NULL OR s.pack_id <= $2) GROUP BY s.pack_id) AS n USING (pack_id)
 WHERE p.state = 'ACTIVE' AND n.first IS NOT NULL AND (p.next_expiry_at IS NULL OR p.next_expiry_at > n.first)
 ORDER BY p.pack_id LIMIT $3

-- name: misplaced
-- Snapshots that name a pack, a frame or a step that is not there.
SELECT s.snapshot_id, s.pack_id, s.frame_no, s.step_id, p.pack_id IS NULL AS no_pack, f.pack_id IS NULL AS no_frame,
       t.step_id IS NULL AS no_step
  FROM sagaz_tiering.snapshots s
  LEFT JOIN sagaz_tiering.packs p ON p.pack_id = s.pack_id
  LEFT JOIN sagaz_tiering.frames f ON f.pack_id = s.pack_id AND f.frame_no = s.frame_no
  LEFT JOIN sagaz_tiering.steps t ON t.step_id = s.step_id
 WHERE s.pack_id > $1 AND ($2::integer IS NULL OR s.pack_id <= $2)
   AND (p.pack_id IS NULL OR f.pack_id IS NULL OR t.step_id IS NULL)
 LIMIT $3

-- name: frames
-- Frames of active packs: with snapshots but outside of their pack, or without the key they are encrypted with; and how
-- many have no snapshot any more.
SELECT f.pack_id, f.frame_no, f.saga_id, f.byte_offset, f.byte_length, p.byte_size, p.object_key,
       f.byte_offset < 0 OR f.byte_length <= 0 OR f.byte_offset + f.byte_length > p.byte_size AS outside,
       f.key_id IS NOT NULL AND k.key_id IS NULL AS keyless
  FROM sagaz_tiering.frames f
  JOIN sagaz_tiering.packs p USING (pack_id)
  LEFT JOIN sagaz_tiering.saga_keys k ON k.key_id = f.key_id
 WHERE f.pack_id > $1 AND ($2::integer IS NULL OR f.pack_id <= $2) AND p.state = 'ACTIVE'
   AND (f.byte_offset < 0 OR f.byte_length <= 0 OR f.byte_offset + f.byte_length > p.byte_size
        OR (f.key_id IS NOT NULL AND k.key_id IS NULL))
   AND EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no)
 ORDER BY f.pack_id, f.frame_no LIMIT $3

-- name: empty_frames
-- What deletions leave until the bytes of the pack go: frames without a snapshot.
SELECT count(*) FROM sagaz_tiering.frames f
 WHERE f.pack_id > $1 AND ($2::integer IS NULL OR f.pack_id <= $2)
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no)

-- name: dangling
-- Restores and erasures that name a pack that has no row.
SELECT 'restore' AS kind, r.restore_id AS id, r.pack_id FROM sagaz_tiering.restore_packs r
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.packs p WHERE p.pack_id = r.pack_id)
UNION
SELECT 'restore', i.restore_id, i.pack_id FROM sagaz_tiering.restore_items i
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.restore_packs r
                    WHERE r.restore_id = i.restore_id AND r.pack_id = i.pack_id)
UNION
SELECT 'erasure', e.erasure_id, e.pack_id FROM sagaz_tiering.erasure_packs e
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.packs p WHERE p.pack_id = e.pack_id)
LIMIT $1

-- name: sample
-- Some active packs, others each time.
SELECT * FROM sagaz_tiering.packs WHERE state = 'ACTIVE' ORDER BY md5(pack_uuid::text || $1) LIMIT $2

-- name: archived
-- Active packs in an archive class, in the order of the names of their footers.
SELECT * FROM sagaz_tiering.packs
 WHERE state = 'ACTIVE' AND storage_class = ANY($1::text[]) AND pack_uuid > $2 ORDER BY pack_uuid LIMIT $3
