-- name: lock
-- Placing a hold waits for deletions under way, and they for it.
SELECT pg_advisory_xact_lock($1)

-- name: lock_shared
SELECT pg_advisory_xact_lock_shared($1)

-- name: place
INSERT INTO sagaz_tiering.holds
    (hold_id, saga_id, match, saga_name_re, step_name_re, status_re, reason, placed_by, placed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: release
DELETE FROM sagaz_tiering.holds WHERE hold_id = $1 RETURNING saga_id, match

-- name: append
INSERT INTO sagaz_tiering.hold_log (hold_id, action, at, who, reason, saga_id, match) VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: in_force
SELECT hold_id, saga_id, match, reason, placed_by, placed_at FROM sagaz_tiering.holds
 WHERE $1::uuid IS NULL OR saga_id = $1
 ORDER BY placed_at, hold_id

-- name: entries
SELECT hold_id, action, at, who, reason, saga_id, match FROM sagaz_tiering.hold_log
 ORDER BY entry_id DESC LIMIT $1

-- name: covering
-- Of these snapshots, the held ones: ids, sagas and the three names, in parallel arrays.
SELECT v.snapshot_id
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
       AS v (snapshot_id, saga_id, saga_name, step_name, status)
 WHERE (SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
   AND sagaz_tiering.is_held(v.saga_id, v.saga_name, v.step_name, v.status)

-- name: holding
-- The holds that cover one snapshot: its saga and the three names.
SELECT hold_id, saga_id, match, reason, placed_by, placed_at FROM sagaz_tiering.holds h
 WHERE (h.saga_id IS NULL OR h.saga_id = $1) AND (h.saga_name_re IS NULL OR $2 ~ h.saga_name_re)
   AND (h.step_name_re IS NULL OR $3 ~ h.step_name_re) AND (h.status_re IS NULL OR $4 ~ h.status_re)
 ORDER BY placed_at, hold_id

-- name: any_match
-- Whether a hold is in force that is not on one saga alone.
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds WHERE saga_id IS NULL)
