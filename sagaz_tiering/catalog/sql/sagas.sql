-- name: ends
SELECT * FROM sagaz_tiering.saga_ends($1::uuid[])

-- name: archived
SELECT sagaz_tiering.note_archived($1, $2, $3, $4, $5, $6)

-- name: fill
SELECT sagaz_tiering.fill_sagas($1)

-- name: note
-- The newest snapshots that Redis has of these sagas; nothing where the catalog knows newer ones.
UPDATE sagaz_tiering.sagas g
   SET ended_at = v.ended_at, end_step = v.end_step, end_id = v.end_id, status = v.status,
       changed = g.changed OR g.kept_us IS NOT NULL
  FROM unnest($1::timestamptz[], $2::integer[], $3::uuid[], $4::uuid[], $5::text[])
       AS v (ended_at, end_step, saga_id, end_id, status)
 WHERE g.saga_id = v.saga_id AND (v.ended_at, v.end_step, v.end_id) > (g.ended_at, g.end_step, g.end_id)

-- name: changed
-- Sagas that went on after part of them was archived, by id, after an id.
SELECT saga_id FROM sagaz_tiering.sagas WHERE changed AND saga_id > $1 ORDER BY saga_id LIMIT $2
