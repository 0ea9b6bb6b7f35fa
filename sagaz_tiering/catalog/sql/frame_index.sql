-- name: add_steps
-- In one order, so that packs that are published at once do not wait for each other crosswise.
INSERT INTO sagaz_tiering.steps (digest, saga_name, step_name, step_index, status)
SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::integer[], $5::text[]) AS v (digest, a, b, c, d)
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.steps s WHERE s.digest = v.digest)
 ORDER BY digest
ON CONFLICT (digest) DO NOTHING

-- name: step_ids
SELECT digest, step_id FROM sagaz_tiering.steps WHERE digest = ANY($1::bytea[])

-- name: any_tombstones
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.tombstones) OR EXISTS (SELECT 1 FROM sagaz_tiering.forgotten)

-- name: drop_superseded
-- Archived copies of these ids in other packs: the new pack replaces them.
WITH gone AS (DELETE FROM sagaz_tiering.snapshots WHERE snapshot_id = ANY($1::uuid[]) RETURNING pack_id)
UPDATE sagaz_tiering.packs p SET live_count = live_count - g.n
  FROM (SELECT pack_id, count(*) AS n FROM gone GROUP BY pack_id) AS g
 WHERE p.pack_id = g.pack_id

-- name: taken
-- Of these, the ones that have a place.
SELECT snapshot_id FROM sagaz_tiering.snapshots WHERE snapshot_id = ANY($1::uuid[])
