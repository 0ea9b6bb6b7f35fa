-- name: lock
-- Placing a hold waits for deletions under way, and they for it.
SELECT pg_advisory_xact_lock($1)

-- name: lock_shared
SELECT pg_advisory_xact_lock_shared($1)

-- name: lock_to_expire
-- The same for `expire`: what is the end of its saga stays known as that after it is gone.
SELECT pg_advisory_xact_lock_shared($1), set_config('sagaz_tiering.expiring', 'on', true)

-- name: compiled
-- An error if one of these is no regular expression, or one that is too complex.
SELECT '' ~ re FROM unnest($1::text[]) re

-- name: place
INSERT INTO sagaz_tiering.holds
    (hold_id, saga_id, match, outcome, attributes, saga_name_re, step_name_re, status_re, outcome_re, attributes_re, reason,
     placed_by, placed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: release
DELETE FROM sagaz_tiering.holds WHERE hold_id = $1 RETURNING saga_id, sagaz_tiering.whole_match(match, outcome, attributes) AS match

-- name: append
INSERT INTO sagaz_tiering.hold_log (hold_id, action, at, who, reason, saga_id, match) VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: in_force
SELECT hold_id, saga_id, sagaz_tiering.whole_match(match, outcome, attributes) AS match, reason, placed_by, placed_at
  FROM sagaz_tiering.holds
 WHERE $1::uuid IS NULL OR saga_id = $1
 ORDER BY placed_at, hold_id LIMIT $2

-- name: page
-- Oldest first, behind the hold $3 that was placed at $2 (NULL: from the first on).
SELECT hold_id, saga_id, sagaz_tiering.whole_match(match, outcome, attributes) AS match, reason, placed_by, placed_at
  FROM sagaz_tiering.holds
 WHERE (placed_at, hold_id) > (coalesce($2::timestamptz, '-infinity'), coalesce($3::uuid, '00000000-0000-0000-0000-000000000000'))
 ORDER BY placed_at, hold_id LIMIT $1

-- name: named
-- The hold of that id, or those that are on the saga of that id.
SELECT hold_id, saga_id, sagaz_tiering.whole_match(match, outcome, attributes) AS match, reason, placed_by, placed_at
  FROM sagaz_tiering.holds
 WHERE hold_id = $1 OR saga_id = $1
 ORDER BY placed_at, hold_id

-- name: entries
-- Behind the entry $2.
SELECT entry_id, hold_id, action, at, who, reason, saga_id, match FROM sagaz_tiering.hold_log
 WHERE $2::bigint IS NULL OR entry_id < $2 ORDER BY entry_id DESC LIMIT $1

-- name: entries_after
SELECT entry_id, hold_id, action, at, who, reason, saga_id, match FROM sagaz_tiering.hold_log
 WHERE entry_id > $1 ORDER BY entry_id LIMIT $2

-- name: entries_of
-- Those of these sagas, and those by match.
SELECT entry_id, hold_id, action, at, who, reason, saga_id, match FROM sagaz_tiering.hold_log
 WHERE entry_id > $1 AND (saga_id = ANY($3::uuid[]) OR saga_id IS NULL) ORDER BY entry_id LIMIT $2

-- name: covering
-- Of these snapshots, the held ones: ids, sagas, the three names, and statuses and attributes of their sagas' ends (NULL:
-- as the tables know), in parallel arrays.
SELECT v.snapshot_id
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
       AS v (snapshot_id, saga_id, saga_name, step_name, status, ended, ended_with)
 WHERE (SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
   AND sagaz_tiering.is_held(v.saga_id, v.saga_name, v.step_name, v.status, v.ended, v.ended_with)

-- name: holding
-- The holds that cover one snapshot: its saga, the three names, and status and attributes of its saga's end (NULL: as the
-- tables know).
SELECT hold_id, saga_id, sagaz_tiering.whole_match(match, outcome, attributes) AS match, reason, placed_by, placed_at
  FROM sagaz_tiering.holds h
 WHERE (h.saga_id IS NULL OR h.saga_id = $1) AND (h.saga_name_re IS NULL OR $2 ~ h.saga_name_re)
   AND (h.step_name_re IS NULL OR $3 ~ h.step_name_re) AND (h.status_re IS NULL OR $4 ~ h.status_re)
   AND (h.outcome_re IS NULL
        OR sagaz_tiering.outcome_of(coalesce($5, (SELECT e.status FROM sagaz_tiering.saga_ends(ARRAY[$1::uuid]) e), $4))
           ~ h.outcome_re)
   AND (h.attributes_re IS NULL
        OR coalesce($6, (SELECT e.attributes FROM sagaz_tiering.saga_ends(ARRAY[$1::uuid]) e), '') ~ h.attributes_re)
 ORDER BY placed_at, hold_id

-- name: any_match
-- Whether a hold is in force that is not on one saga alone.
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds WHERE saga_id IS NULL)

-- name: matched
-- How many snapshots of which sagas regular expressions over the three names, and over outcome ($4) and attributes ($5) of
-- the sagas match (NULL: any), durable and archived.
SELECT 'durable' AS tier, saga_id, count(*) AS snapshots FROM (
    SELECT d.saga_id FROM sagaz_tiering.saga_snapshots d
     WHERE ($1::text IS NULL OR d.saga_name ~ $1) AND ($2::text IS NULL OR d.step_name ~ $2)
       AND ($3::text IS NULL OR d.status ~ $3)
       AND ($4::text IS NULL AND $5::text IS NULL OR sagaz_tiering.ends_so(d.saga_id, $4, $5))
     LIMIT $6) AS durable
 GROUP BY saga_id
UNION ALL
SELECT 'archived', saga_id, count(*) FROM (
    SELECT f.saga_id FROM sagaz_tiering.steps t
      JOIN sagaz_tiering.snapshots s USING (step_id)
      JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
     WHERE ($1::text IS NULL OR t.saga_name ~ $1) AND ($2::text IS NULL OR t.step_name ~ $2)
       AND ($3::text IS NULL OR t.status ~ $3)
       AND ($4::text IS NULL AND $5::text IS NULL OR sagaz_tiering.ends_so(f.saga_id, $4, $5))
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = s.snapshot_id)
     LIMIT $6) AS archived
 GROUP BY saga_id

-- name: known
SELECT snapshot_id FROM sagaz_tiering.saga_snapshots WHERE snapshot_id = ANY($1::uuid[])
UNION
SELECT snapshot_id FROM sagaz_tiering.snapshots WHERE snapshot_id = ANY($1::uuid[])

-- name: held_sagas
-- The next ones; only those of which Redis has no marks yet ($3), or all.
SELECT DISTINCT saga_id FROM sagaz_tiering.holds
 WHERE saga_id IS NOT NULL AND ($1::uuid IS NULL OR saga_id > $1) AND NOT ($3 AND marked) ORDER BY saga_id LIMIT $2

-- name: marked
UPDATE sagaz_tiering.holds SET marked = true WHERE saga_id = ANY($1::uuid[]) AND NOT marked

-- name: ids_of
-- The next snapshots of these sagas, durable or in packs.
SELECT d.snapshot_id FROM sagaz_tiering.saga_snapshots d
 WHERE d.saga_id = ANY($1::uuid[]) AND ($2::uuid IS NULL OR d.snapshot_id > $2)
UNION
SELECT s.snapshot_id FROM sagaz_tiering.frames f JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
 WHERE f.saga_id = ANY($1::uuid[]) AND ($2::uuid IS NULL OR s.snapshot_id > $2)
 ORDER BY snapshot_id LIMIT $3

-- name: frozen
-- Of these ids, those whose stored version, durable or in a pack, is held.
SELECT v.snapshot_id FROM unnest($1::uuid[]) AS v (snapshot_id)
 WHERE (SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds)) AND sagaz_tiering.is_frozen(v.snapshot_id)

-- name: frozen_in_packs
-- Of these ids, those that a pack has a held version of.
SELECT s.snapshot_id
  FROM sagaz_tiering.snapshots s
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
 WHERE s.snapshot_id = ANY($1::uuid[]) AND (SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
   AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status)
