-- name: put
-- Insert or replace, unless something as new or newer was done to the snapshot: another save, or a delete. `changes`
-- tells whether Redis is still what it was when it took the save.
INSERT INTO sagaz_tiering.saga_snapshots AS d
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, retention_until, saved_at,
     expires_at, due_at, body_crc, spilled, attributes, value)
SELECT $1::uuid, $2::uuid, $3::text, $4::text, $5::integer, $6::text, $7::timestamptz, $8::timestamptz,
       $9::timestamptz, $10::timestamptz, $11::timestamptz, $12::bigint, $13::boolean, $14::text,
       $15::bytea
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.tombstones t WHERE t.snapshot_id = $1 AND t.deleted_at >= $9)
   AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds)) AND sagaz_tiering.is_frozen($1))
ON CONFLICT (snapshot_id) DO UPDATE
   SET saga_id = excluded.saga_id, saga_name = excluded.saga_name, step_name = excluded.step_name,
       step_index = excluded.step_index, status = excluded.status, created_at = excluded.created_at,
       retention_until = excluded.retention_until, saved_at = excluded.saved_at,
       expires_at = excluded.expires_at, due_at = excluded.due_at, claimed_until = NULL,
       body_crc = excluded.body_crc, spilled = excluded.spilled, value = excluded.value,
       attributes = excluded.attributes
 WHERE excluded.saved_at > d.saved_at OR (excluded.saved_at = d.saved_at AND excluded.value = d.value)
RETURNING snapshot_id, (SELECT changes FROM sagaz_tiering.hot_tier) AS changes

-- name: put_many
-- The same for many rows, each id once, in one statement: $1 all but the values, $2 these.
INSERT INTO sagaz_tiering.saga_snapshots AS d
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, retention_until, saved_at,
     expires_at, due_at, body_crc, spilled, attributes, value)
SELECT v.* FROM ROWS FROM (
         json_to_recordset($1::json)
           AS (snapshot_id uuid, saga_id uuid, saga_name text, step_name text, step_index integer, status text,
               created_at timestamptz, retention_until timestamptz, saved_at timestamptz, expires_at timestamptz,
               due_at timestamptz, body_crc bigint, spilled boolean, attributes text),
         unnest($2::bytea[]))
       AS v (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, retention_until, saved_at,
             expires_at, due_at, body_crc, spilled, attributes, value)
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.tombstones t
                    WHERE t.snapshot_id = v.snapshot_id AND t.deleted_at >= v.saved_at)
   AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds)) AND sagaz_tiering.is_frozen(v.snapshot_id))
ON CONFLICT (snapshot_id) DO UPDATE
   SET saga_id = excluded.saga_id, saga_name = excluded.saga_name, step_name = excluded.step_name,
       step_index = excluded.step_index, status = excluded.status, created_at = excluded.created_at,
       retention_until = excluded.retention_until, saved_at = excluded.saved_at,
       expires_at = excluded.expires_at, due_at = excluded.due_at, claimed_until = NULL,
       body_crc = excluded.body_crc, spilled = excluded.spilled, value = excluded.value,
       attributes = excluded.attributes
 WHERE excluded.saved_at > d.saved_at OR (excluded.saved_at = d.saved_at AND excluded.value = d.value)
RETURNING snapshot_id, (SELECT changes FROM sagaz_tiering.hot_tier) AS changes

-- name: in_the_way
-- When what kept `put` from storing these was done: the save that is there, or the delete. It may be gone by now.
-- Or it is a legal hold on what is there.
SELECT v.snapshot_id, greatest(d.saved_at, t.deleted_at) AS at,
       (SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds)) AND sagaz_tiering.is_frozen(v.snapshot_id) AS frozen
  FROM unnest($1::uuid[]) AS v (snapshot_id)
  LEFT JOIN sagaz_tiering.saga_snapshots d USING (snapshot_id)
  LEFT JOIN sagaz_tiering.tombstones t USING (snapshot_id)

-- name: announce_fallback
-- From now on Redis may miss something; how long ago was that first said?
UPDATE sagaz_tiering.spill SET since = coalesce(since, clock_timestamp())
RETURNING extract(epoch FROM clock_timestamp() - since)::float8

-- name: fallback_rows
-- A batch of rows that Redis does not have yet, oldest ids first, after a given id.
SELECT snapshot_id, saved_at, octet_length(value) AS byte_length FROM sagaz_tiering.saga_snapshots
 WHERE spilled AND snapshot_id > $1 ORDER BY snapshot_id LIMIT $2

-- name: page
-- A batch of all rows, oldest ids first, after a given id.
SELECT snapshot_id, saved_at, octet_length(value) AS byte_length FROM sagaz_tiering.saga_snapshots
 WHERE snapshot_id > $1 ORDER BY snapshot_id LIMIT $2

-- name: rows_of
SELECT snapshot_id, saved_at, octet_length(value) AS byte_length FROM sagaz_tiering.saga_snapshots
 WHERE snapshot_id = ANY($1::uuid[])

-- name: keep
-- Rows that nobody removes before we commit; those that somebody is removing now are left out.
SELECT snapshot_id, saved_at, value FROM sagaz_tiering.saga_snapshots
 WHERE snapshot_id = ANY($1::uuid[]) ORDER BY snapshot_id FOR KEY SHARE SKIP LOCKED

-- name: clear_fallback
UPDATE sagaz_tiering.saga_snapshots d SET spilled = false
  FROM unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, saved_at)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at = v.saved_at

-- name: mark_fallback
UPDATE sagaz_tiering.saga_snapshots d SET spilled = true
  FROM unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, saved_at)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at = v.saved_at

-- name: lock_fallback
SELECT 1 FROM sagaz_tiering.spill FOR UPDATE

-- name: end_fallback
-- Only after lock_fallback in the same transaction: a fallback write that we waited for is visible now. While Redis has not
-- followed a deletion, it may have an older save of what was deleted.
UPDATE sagaz_tiering.spill SET since = NULL
 WHERE since IS NOT NULL AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots WHERE spilled)
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.tombstones WHERE in_redis)
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.erasures WHERE hot_done_at IS NULL)

-- name: claim_due
-- A batch of due rows that no other job works on, and as many other rows of their sagas, marked as ours for a while:
-- what a save noted as due was by the rule at that save, and a saga moves as a whole.
WITH due AS (
    SELECT snapshot_id, saga_id FROM sagaz_tiering.saga_snapshots
     WHERE due_at <= $1 AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
     ORDER BY due_at LIMIT $2
       FOR UPDATE SKIP LOCKED),
others AS (
    SELECT o.snapshot_id FROM sagaz_tiering.saga_snapshots o
     WHERE o.saga_id IN (SELECT saga_id FROM due) AND o.snapshot_id NOT IN (SELECT snapshot_id FROM due)
       AND (o.claimed_until IS NULL OR o.claimed_until < clock_timestamp())
     ORDER BY o.saga_id, o.created_at DESC, o.step_index DESC LIMIT $2
       FOR UPDATE SKIP LOCKED)
UPDATE sagaz_tiering.saga_snapshots d
   SET claimed_until = clock_timestamp() + $3::interval
  FROM (SELECT snapshot_id FROM due UNION ALL SELECT snapshot_id FROM others) AS mine
 WHERE d.snapshot_id = mine.snapshot_id
RETURNING d.snapshot_id, d.saga_id, d.saved_at, d.value

-- name: peek_due
-- The same without claiming, for a dry run: due rows and the others of their sagas (NULL: all rows) after a given id.
SELECT d.snapshot_id, d.saga_id, d.saved_at, d.value
  FROM sagaz_tiering.saga_snapshots d
 WHERE ($1::timestamptz IS NULL OR d.due_at <= $1
        OR EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots o
                    WHERE o.saga_id = d.saga_id AND o.due_at <= $1
                      AND (o.claimed_until IS NULL OR o.claimed_until < clock_timestamp())))
   AND (d.claimed_until IS NULL OR d.claimed_until < clock_timestamp())
   AND d.snapshot_id > $2 ORDER BY d.snapshot_id LIMIT $3

-- name: postpone
-- Look again later (NULL: never), unless the row was saved anew meanwhile.
UPDATE sagaz_tiering.saga_snapshots d
   SET due_at = v.due_at, expires_at = v.expires_at, claimed_until = NULL
  FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[])
       AS v (snapshot_id, saved_at, due_at, expires_at)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at = v.saved_at

-- name: recompute_expiry
-- Other policies say when these rows expire, and `age` looks at them once more; what was saved anew is left alone.
UPDATE sagaz_tiering.saga_snapshots d SET expires_at = v.expires_at, due_at = '-infinity'
  FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS v (snapshot_id, saved_at, expires_at)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at = v.saved_at

-- name: expired
-- A batch of rows whose noted expiry has passed, with all rows of their sagas, and where the batch ends: the policies of
-- today have the last word, and how a saga ends. Values stay where they are.
WITH passed AS (
    SELECT saga_id, expires_at, snapshot_id FROM sagaz_tiering.saga_snapshots
     WHERE expires_at <= $1 AND (expires_at, snapshot_id) > ($2, $3) ORDER BY expires_at, snapshot_id LIMIT $4),
last AS (SELECT expires_at AS last_at, snapshot_id AS last_id FROM passed ORDER BY 1 DESC, 2 DESC LIMIT 1)
SELECT d.snapshot_id, d.saga_id, d.saga_name, d.step_name, d.step_index, d.status, d.created_at, d.saved_at,
       d.retention_until, d.body_crc, d.attributes, d.expires_at, last.last_at, last.last_id
  FROM last, sagaz_tiering.saga_snapshots d
 WHERE d.saga_id = ANY(ARRAY(SELECT DISTINCT saga_id FROM passed))

-- name: of_sagas
SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, retention_until, body_crc,
       attributes, expires_at
  FROM sagaz_tiering.saga_snapshots WHERE saga_id = ANY($1::uuid[])

-- name: metas
-- A page of rows by id, after an id, without their values.
SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, retention_until, body_crc,
       attributes, expires_at
  FROM sagaz_tiering.saga_snapshots WHERE snapshot_id > $1 ORDER BY snapshot_id LIMIT $2

-- name: lock
-- Every row of these snapshots, and the packs that they are in, before something of them goes.
WITH hot AS MATERIALIZED (
    SELECT 1 FROM sagaz_tiering.hot_saves WHERE snapshot_id = ANY($1::uuid[]) ORDER BY snapshot_id FOR UPDATE),
durable AS MATERIALIZED (
    SELECT 1 FROM sagaz_tiering.saga_snapshots WHERE snapshot_id = ANY($1::uuid[]) ORDER BY snapshot_id FOR UPDATE),
places AS MATERIALIZED (
    SELECT pack_id FROM sagaz_tiering.snapshots WHERE snapshot_id = ANY($1::uuid[]) ORDER BY snapshot_id FOR UPDATE),
their_packs AS MATERIALIZED (
    SELECT 1 FROM sagaz_tiering.packs WHERE pack_id = ANY(ARRAY(SELECT DISTINCT pack_id FROM places))
     ORDER BY pack_id FOR NO KEY UPDATE)
SELECT (SELECT count(*) FROM hot), (SELECT count(*) FROM durable), (SELECT count(*) FROM their_packs)

-- name: drop_hot_saves
DELETE FROM sagaz_tiering.hot_saves h USING unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, saved_at)
 WHERE h.snapshot_id = v.snapshot_id AND h.saved_at <= v.saved_at

-- name: delete_versions
DELETE FROM sagaz_tiering.saga_snapshots d
 USING unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, saved_at)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at = v.saved_at

-- name: reset_due
-- The policies changed: every row is looked at once more, a batch at a time in id order.
WITH batch AS (SELECT snapshot_id FROM sagaz_tiering.saga_snapshots
                WHERE snapshot_id > $1 ORDER BY snapshot_id LIMIT $2)
UPDATE sagaz_tiering.saga_snapshots d SET due_at = '-infinity'
  FROM batch WHERE d.snapshot_id = batch.snapshot_id
RETURNING d.snapshot_id

-- name: totals
SELECT count(*) AS snapshots, coalesce(sum(octet_length(value)), 0)::bigint AS bytes,
       count(*) FILTER (WHERE spilled) AS spilled, count(*) FILTER (WHERE due_at <= $1) AS due
  FROM sagaz_tiering.saga_snapshots

-- name: estimate
-- The same in a time that does not grow with the table: above $2 pages by PostgreSQL's statistics, what is due up to $3.
WITH pages AS (
    SELECT pg_relation_size('sagaz_tiering.saga_snapshots') / current_setting('block_size')::bigint AS pages),
known AS (
    SELECT reltuples / nullif(relpages, 0) * pages AS rows, pg_table_size(oid) AS bytes,
           reltuples >= 0 AND relpages > 0 AND pages > $2 AS estimated
      FROM pg_class, pages WHERE oid = 'sagaz_tiering.saga_snapshots'::regclass)
SELECT CASE WHEN estimated THEN rows::bigint ELSE (SELECT count(*) FROM sagaz_tiering.saga_snapshots) END AS snapshots,
       CASE WHEN estimated THEN bytes
            ELSE (SELECT coalesce(sum(octet_length(value)), 0) FROM sagaz_tiering.saga_snapshots) END::bigint AS bytes,
       (SELECT count(*) FROM sagaz_tiering.saga_snapshots WHERE spilled) AS spilled,
       (SELECT count(*) FROM (SELECT 1 FROM sagaz_tiering.saga_snapshots WHERE due_at <= $1 LIMIT $3) AS few) AS due,
       estimated
  FROM known
