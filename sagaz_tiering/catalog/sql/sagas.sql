-- name: ends
SELECT * FROM sagaz_tiering.saga_ends($1::uuid[])

-- name: archived
SELECT sagaz_tiering.note_archived($1, $2, $3, $4, $5, $6, $7)

-- name: fill
SELECT CASE WHEN sagaz_tiering.fill_sagas($1) THEN sagaz_tiering.fill_found($1) ELSE false END

-- name: note
-- The newest snapshots that Redis has of these sagas; nothing where the catalog knows newer ones.
WITH locked AS MATERIALIZED (
    SELECT saga_id FROM sagaz_tiering.sagas WHERE saga_id = ANY($3::uuid[]) ORDER BY saga_id FOR UPDATE)
UPDATE sagaz_tiering.sagas g
   SET ended_at = v.ended_at, end_step = v.end_step, end_id = v.end_id, status = v.status, attributes = v.attributes,
       changed = g.changed OR g.kept_us IS NOT NULL
  FROM unnest($1::timestamptz[], $2::integer[], $3::uuid[], $4::uuid[], $5::text[], $6::text[])
       AS v (ended_at, end_step, saga_id, end_id, status, attributes)
  JOIN locked USING (saga_id)
 WHERE g.saga_id = v.saga_id AND (v.ended_at, v.end_step, v.end_id) > (g.ended_at, g.end_step, g.end_id)

-- name: changed
-- Sagas that went on after part of them was archived, by id, after an id.
SELECT saga_id, ended_at, end_step, end_id, status, kept_us, attributes FROM sagaz_tiering.sagas
 WHERE changed AND saga_id > $1 ORDER BY saga_id LIMIT $2

-- name: losing
-- Sagas of which something in pack $1 has expired by $2 and goes, after an id.
SELECT f.saga_id, g.ended_at, g.end_step, g.end_id, g.status, g.kept_us, g.attributes
  FROM sagaz_tiering.frames f LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
 WHERE f.pack_id = $1 AND f.saga_id > $3 AND g.changed IS NOT TRUE
   AND EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s JOIN sagaz_tiering.steps t USING (step_id)
                WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no AND s.expires_at <= $2
                  AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
                           AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status)))
 GROUP BY f.saga_id, g.saga_id ORDER BY f.saga_id LIMIT $4

-- name: take_in
-- What an earlier version left of these sagas.
SELECT sagaz_tiering.note_archived(array_agg(e.ended_at), array_agg(e.kept_us), array_agg(e.end_step),
                                   array_agg(e.saga_id), array_agg(e.end_id), array_agg(e.status),
                                   array_agg(e.attributes))
  FROM sagaz_tiering.ends_in_tables($1::uuid[]) e

-- name: archived_of
SELECT s.snapshot_id, f.saga_id, t.saga_name, t.step_name, t.step_index, t.status, s.created_at, s.expires_at,
       s.pack_id, p.max_clock_at, p.retention_revision, p.policy
  FROM sagaz_tiering.frames f
  JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
  JOIN sagaz_tiering.packs p USING (pack_id)
  JOIN sagaz_tiering.steps t USING (step_id)
 WHERE f.saga_id = ANY($1::uuid[])

-- name: date_snapshots
UPDATE sagaz_tiering.snapshots s SET expires_at = v.expires_at
  FROM unnest($1::uuid[], $2::integer[], $3::timestamptz[]) AS v (snapshot_id, pack_id, expires_at)
 WHERE s.snapshot_id = v.snapshot_id AND s.pack_id = v.pack_id

-- name: date_packs
UPDATE sagaz_tiering.packs p
   SET next_expiry_at = (SELECT min(s.expires_at) FROM sagaz_tiering.snapshots s WHERE s.pack_id = p.pack_id)
 WHERE pack_id = ANY($1::integer[])

-- name: decided
-- Unless it went on, or was promised more, since it was looked at.
WITH seen AS (
    SELECT v.saga_id, v.kept_us
      FROM unnest($1::timestamptz[], $2::integer[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::bigint[],
                  $8::bigint[])
           AS v (ended_at, end_step, saga_id, end_id, status, attributes, kept_us, before_us)
      JOIN sagaz_tiering.sagas g USING (saga_id)
     WHERE (g.ended_at, g.end_step, g.end_id, g.status) = (v.ended_at, v.end_step, v.end_id, v.status)
       AND g.attributes IS NOT DISTINCT FROM v.attributes
       AND coalesce(g.kept_us, -4611686018427387904) = v.before_us
     ORDER BY saga_id FOR UPDATE OF g)
UPDATE sagaz_tiering.sagas g SET changed = false, kept_us = seen.kept_us FROM seen WHERE g.saga_id = seen.saga_id

-- name: promise_anew
-- Pack $1 was dated by other rules. Sagas that have parts in other packs too are decided anew.
WITH locked AS MATERIALIZED (
    SELECT saga_id FROM sagaz_tiering.sagas WHERE saga_id = ANY($2::uuid[]) ORDER BY saga_id FOR UPDATE)
UPDATE sagaz_tiering.sagas g
   SET kept_us = v.kept_us,
       changed = g.changed OR EXISTS (SELECT 1 FROM sagaz_tiering.frames f
                                       WHERE f.saga_id = g.saga_id AND f.pack_id <> $1)
  FROM unnest($2::uuid[], $3::bigint[]) AS v (saga_id, kept_us)
  JOIN locked USING (saga_id)
 WHERE g.saga_id = v.saga_id
