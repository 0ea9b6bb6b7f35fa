-- name: catalog_id
SELECT catalog_id FROM sagaz_tiering.owner

-- name: started
INSERT INTO sagaz_tiering.job_runs (job, started_at) VALUES ($1, $2)
ON CONFLICT (job) DO UPDATE SET started_at = excluded.started_at

-- name: finished
UPDATE sagaz_tiering.job_runs SET finished_at = $2, error = $3, stopped = $4, summary = $5 WHERE job = $1

-- name: last_runs
SELECT job, started_at, finished_at, error, stopped, summary FROM sagaz_tiering.job_runs ORDER BY job

-- name: newest_revision
SELECT revision FROM sagaz_tiering.policy_revisions ORDER BY first_seen DESC LIMIT 1

-- name: remember_revision
INSERT INTO sagaz_tiering.policy_revisions (revision, first_seen, first_after, policies) VALUES ($1, $2, $3, $4)
ON CONFLICT (revision) DO UPDATE SET first_seen = excluded.first_seen

-- name: accepted_retention
-- Unless it is number $1.
SELECT number, policies FROM sagaz_tiering.accepted_retention WHERE number IS DISTINCT FROM $1::bigint

-- name: accept_first
-- The rules of a catalog that has none yet need nobody's leave.
INSERT INTO sagaz_tiering.accepted_retention (accepted_at, policies) VALUES ($1, $2)
ON CONFLICT (only_row) DO NOTHING

-- name: accept
INSERT INTO sagaz_tiering.accepted_retention AS r (accepted_at, policies) VALUES ($1, $2)
ON CONFLICT (only_row) DO UPDATE
   SET number = r.number + 1, accepted_at = excluded.accepted_at, policies = excluded.policies

-- name: hot_revisions
-- Every revision ever in force under which something could be acknowledged by Redis alone.
SELECT revision, policies FROM sagaz_tiering.policy_revisions r
 WHERE EXISTS (SELECT 1 FROM json_array_elements(r.policies) p WHERE p->>'durability' = 'hot')

-- name: take_identity
-- Only an empty catalog becomes another one; one that has that identity already stays it.
UPDATE sagaz_tiering.owner SET catalog_id = $1
 WHERE catalog_id = $1 OR NOT EXISTS (SELECT 1 FROM sagaz_tiering.packs)
