-- name: save_snapshot
-- JSON is sent as bytes: megabytes of it would otherwise be decoded and encoded by the client.
INSERT INTO saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, retention_until,
     context, completed_steps, external_refs, body)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, convert_from($9, 'UTF8')::jsonb, convert_from($10, 'UTF8')::jsonb,
        convert_from($11, 'UTF8')::jsonb, $12)
ON CONFLICT (snapshot_id) DO UPDATE
   SET saga_id = excluded.saga_id, saga_name = excluded.saga_name, step_name = excluded.step_name,
       step_index = excluded.step_index, status = excluded.status, created_at = excluded.created_at,
       retention_until = excluded.retention_until, context = excluded.context,
       completed_steps = excluded.completed_steps, external_refs = excluded.external_refs, body = excluded.body

-- name: by_id
-- A live snapshot ($2: now). Here and below, JSONB is sent only where there is no exact form; times that somebody
-- wrote and Python does not have are sent as none: the snapshot is then unreadable, or its retention unlimited.
SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, body,
       CASE WHEN created_at BETWEEN '1000-01-01' AND '9999-12-30' THEN created_at END AS created_at,
       CASE WHEN retention_until < '2255-01-01' THEN retention_until END AS retention_until,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE context END AS context,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE completed_steps END AS completed_steps,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE external_refs END AS external_refs
  FROM saga_snapshots
 WHERE snapshot_id = $1 AND (retention_until IS NULL OR retention_until > $2)

-- name: newest
-- The live snapshots of a saga before a place in its order, newest first: at most $6, and no more of them than
-- $7 bytes hold (but one). `found` is how many there were before that cut. $8 is a step name as columns hold it,
-- $9 as it is (rows that sagaz wrote); NULL for any step.
SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, body, found,
       CASE WHEN created_at BETWEEN '1000-01-01' AND '9999-12-30' THEN created_at END AS created_at,
       CASE WHEN retention_until < '2255-01-01' THEN retention_until END AS retention_until,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE context END AS context,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE completed_steps END AS completed_steps,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE external_refs END AS external_refs
  FROM (SELECT *, count(*) OVER () AS found,
               sum(size) OVER (ORDER BY created_at DESC, step_index DESC, snapshot_id DESC ROWS UNBOUNDED PRECEDING)
               - size AS bytes_before
          FROM (SELECT *, coalesce(nullif(octet_length(body), 0), 4 * pg_column_size(context))::bigint AS size
                  FROM saga_snapshots
                 WHERE saga_id = $1 AND (retention_until IS NULL OR retention_until > $2)
                   AND (created_at, step_index, snapshot_id) < ($3, $4, $5)
                   AND ($8::text IS NULL OR step_name = CASE WHEN body IS NULL THEN $9::text ELSE $8 END)
                 ORDER BY created_at DESC, step_index DESC, snapshot_id DESC
                 LIMIT $6) AS page) AS sized
 WHERE bytes_before < $7::bigint
 ORDER BY sized.created_at DESC, step_index DESC, snapshot_id DESC

-- name: oldest
-- The live snapshots of a saga behind a place in its order, oldest first; otherwise as `newest`.
SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, body, found,
       CASE WHEN created_at BETWEEN '1000-01-01' AND '9999-12-30' THEN created_at END AS created_at,
       CASE WHEN retention_until < '2255-01-01' THEN retention_until END AS retention_until,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE context END AS context,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE completed_steps END AS completed_steps,
       CASE WHEN octet_length(body) > 0 THEN NULL ELSE external_refs END AS external_refs
  FROM (SELECT *, count(*) OVER () AS found,
               sum(size) OVER (ORDER BY created_at, step_index, snapshot_id ROWS UNBOUNDED PRECEDING)
               - size AS bytes_before
          FROM (SELECT *, coalesce(nullif(octet_length(body), 0), 4 * pg_column_size(context))::bigint AS size
                  FROM saga_snapshots
                 WHERE saga_id = $1 AND (retention_until IS NULL OR retention_until > $2)
                   AND (created_at, step_index, snapshot_id) > ($3, $4, $5)
                 ORDER BY created_at, step_index, snapshot_id
                 LIMIT $6) AS page) AS sized
 WHERE bytes_before < $7::bigint
 ORDER BY sized.created_at, step_index, snapshot_id

-- name: sagas
-- Sagas with a live snapshot from an id on, ascending: one index look-up each, however many snapshots they have.
WITH RECURSIVE sagas AS (
    (SELECT saga_id FROM saga_snapshots
      WHERE saga_id >= $1 AND (retention_until IS NULL OR retention_until > $2)
      ORDER BY saga_id LIMIT 1)
    UNION ALL
    SELECT (SELECT s.saga_id FROM saga_snapshots s
             WHERE s.saga_id > sagas.saga_id AND (s.retention_until IS NULL OR s.retention_until > $2)
             ORDER BY s.saga_id LIMIT 1)
      FROM sagas WHERE sagas.saga_id IS NOT NULL
)
SELECT saga_id FROM sagas WHERE saga_id IS NOT NULL LIMIT $3

-- name: delete_snapshot
DELETE FROM saga_snapshots WHERE snapshot_id = $1

-- name: delete_expired
-- A batch. What another one deletes or saves at this moment is left to it.
DELETE FROM saga_snapshots
 WHERE snapshot_id = ANY (ARRAY(SELECT snapshot_id FROM saga_snapshots WHERE retention_until <= $1
                                 ORDER BY retention_until LIMIT $2 FOR UPDATE SKIP LOCKED))

-- name: delete_saga
-- A batch, locked in the order of ids, so that two of these never wait for each other.
DELETE FROM saga_snapshots
 WHERE snapshot_id = ANY (ARRAY(SELECT snapshot_id FROM saga_snapshots WHERE saga_id = $1
                                 ORDER BY snapshot_id LIMIT $2 FOR UPDATE))

-- name: save_replay
INSERT INTO saga_replay_log
    (replay_id, original_saga_id, new_saga_id, checkpoint_step, context_override, initiated_by, replay_status,
     error_message, created_at, completed_at, body)
VALUES ($1, $2, $3, $4, convert_from($5, 'UTF8')::jsonb, $6, $7, $8, $9, $10, $11)
ON CONFLICT (replay_id) DO UPDATE
   SET original_saga_id = excluded.original_saga_id, new_saga_id = excluded.new_saga_id,
       checkpoint_step = excluded.checkpoint_step, context_override = excluded.context_override,
       initiated_by = excluded.initiated_by, replay_status = excluded.replay_status,
       error_message = excluded.error_message, created_at = excluded.created_at,
       completed_at = excluded.completed_at, body = excluded.body

-- name: replay
SELECT replay_id, original_saga_id, new_saga_id, checkpoint_step, context_override, initiated_by, replay_status,
       error_message, created_at, completed_at, body
  FROM saga_replay_log WHERE replay_id = $1

-- name: replays_of_saga
-- Newest first, before a place in that order.
SELECT replay_id, original_saga_id, new_saga_id, checkpoint_step, context_override, initiated_by, replay_status,
       error_message, created_at, completed_at, body
  FROM saga_replay_log
 WHERE original_saga_id = $1 AND (created_at, replay_id) < ($2, $3)
 ORDER BY created_at DESC, replay_id DESC LIMIT $4

-- name: replays_from
-- By id, from an id on.
SELECT replay_id, original_saga_id, new_saga_id, checkpoint_step, context_override, initiated_by, replay_status,
       error_message, created_at, completed_at, body
  FROM saga_replay_log WHERE replay_id >= $1 ORDER BY replay_id LIMIT $2

-- name: sizes
-- What the server knows without counting.
SELECT pg_relation_size(c.oid) AS heap_bytes, pg_total_relation_size(c.oid) AS table_bytes,
       greatest(c.reltuples, 0)::bigint AS rows
  FROM pg_class c WHERE c.oid = to_regclass('saga_snapshots')

-- name: count
-- Reads the whole table, but no value that is stored out of line.
SELECT count(*) AS rows,
       coalesce(sum(coalesce(octet_length(body), 0) + pg_column_size(context) + pg_column_size(completed_steps)
                    + pg_column_size(external_refs)), 0)::bigint AS bytes
  FROM saga_snapshots
