-- The tables of sagaz 1.5.0, only read. A time that Python has no value for (infinity, year 20000) would fail the
-- whole answer in the driver: a row with one gets MAX_TIME ($3; MIN_TIME is $2), which no readable row has.
-- coalesce keeps the planner off sagaz's index on retention_until, which it takes in tables without statistics.

-- name: saga_ids
-- Sagas from $1 on with a row that is live at $2, each found by one look into the index on saga_id.
WITH RECURSIVE saga AS (
    (SELECT saga_id FROM saga_snapshots
      WHERE saga_id >= $1 AND coalesce(retention_until, 'infinity') > $2 ORDER BY saga_id LIMIT 1)
    UNION ALL
    SELECT (SELECT later.saga_id FROM saga_snapshots AS later
             WHERE later.saga_id > saga.saga_id AND coalesce(retention_until, 'infinity') > $2
             ORDER BY later.saga_id LIMIT 1)
      FROM saga WHERE saga.saga_id IS NOT NULL
)
SELECT saga_id FROM saga WHERE saga_id IS NOT NULL LIMIT $3

-- name: snapshots_of_saga
-- Rows of saga $1 that were live at $4, behind a place ($5, $6, $7) in the order: at most $8, as many as stay within
-- $9 bytes, and at least one; the bodies of the others are not even decompressed. `found`: how many without that cut.
SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, context::text AS context,
       completed_steps::text AS completed_steps, created_at,
       CASE WHEN retention_until >= $3 THEN $3 ELSE retention_until END AS retention_until, found
  FROM (
    SELECT page.*, count(*) OVER () AS found,
           sum(size) OVER (ORDER BY created_at, step_index, snapshot_id) - size AS bytes_before
      FROM (
        SELECT * FROM (
            SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, context, completed_steps,
                   retention_until, pg_column_size(context) + pg_column_size(completed_steps) AS size,
                   CASE WHEN created_at >= $2::timestamptz AND created_at < $3::timestamptz
                        THEN created_at ELSE $3::timestamptz END AS created_at
              FROM saga_snapshots WHERE saga_id = $1 AND coalesce(retention_until, 'infinity') > $4
        ) AS placed
         WHERE (created_at, step_index, snapshot_id) > ($5::timestamptz, $6::bigint, $7::uuid)
         ORDER BY created_at, step_index, snapshot_id LIMIT $8
      ) AS page
  ) AS sized
 WHERE bytes_before < $9 ORDER BY created_at, step_index, snapshot_id

-- name: places_of_saga
-- What comes next in the order of saga $1, as in snapshots_of_saga, without reading bodies: one of them is damaged.
SELECT created_at, step_index, snapshot_id
  FROM (
    SELECT step_index, snapshot_id,
           CASE WHEN created_at >= $2::timestamptz AND created_at < $3::timestamptz
                THEN created_at ELSE $3::timestamptz END AS created_at
      FROM saga_snapshots WHERE saga_id = $1 AND coalesce(retention_until, 'infinity') > $4
  ) AS placed
 WHERE (created_at, step_index, snapshot_id) > ($5::timestamptz, $6::bigint, $7::uuid)
 ORDER BY created_at, step_index, snapshot_id LIMIT $8

-- name: snapshot
-- One row by id, as in snapshots_of_saga.
SELECT snapshot_id, saga_id, saga_name, step_name, step_index, status, context::text AS context,
       completed_steps::text AS completed_steps,
       CASE WHEN created_at >= $2::timestamptz AND created_at < $3::timestamptz
            THEN created_at ELSE $3::timestamptz END AS created_at,
       CASE WHEN retention_until >= $3 THEN $3 ELSE retention_until END AS retention_until
  FROM saga_snapshots WHERE snapshot_id = $1

-- name: replays
-- Replay records from id $1 on, as many at once as in snapshots_of_saga.
SELECT replay_id, original_saga_id, new_saga_id, checkpoint_step, replay_status, initiated_by, error_message,
       context_override::text AS context_override, created_at, completed_at, found
  FROM (
    SELECT page.*, count(*) OVER () AS found, sum(size) OVER (ORDER BY replay_id) - size AS bytes_before
      FROM (
        SELECT replay_id, original_saga_id, new_saga_id, checkpoint_step, replay_status, initiated_by, error_message,
               context_override, coalesce(pg_column_size(context_override), 0) AS size,
               CASE WHEN created_at >= $2::timestamptz AND created_at < $3::timestamptz
                    THEN created_at ELSE $3::timestamptz END AS created_at,
               CASE WHEN completed_at IS NULL OR (completed_at >= $2 AND completed_at < $3)
                    THEN completed_at ELSE $3 END AS completed_at
          FROM saga_replay_log WHERE replay_id >= $1 ORDER BY replay_id LIMIT $4
      ) AS page
  ) AS sized
 WHERE bytes_before < $5 ORDER BY replay_id

-- name: places_of_replays
-- The ids of replays, without reading what they hold: one of them is damaged.
SELECT replay_id, created_at BETWEEN $2::timestamptz AND $3::timestamptz AS is_readable
  FROM saga_replay_log WHERE replay_id >= $1 ORDER BY replay_id LIMIT $4

-- name: replay
-- One replay record by id.
SELECT replay_id, original_saga_id, new_saga_id, checkpoint_step, replay_status, initiated_by, error_message,
       context_override::text AS context_override,
       CASE WHEN created_at >= $2::timestamptz AND created_at < $3::timestamptz
            THEN created_at ELSE $3::timestamptz END AS created_at,
       CASE WHEN completed_at IS NULL OR (completed_at >= $2 AND completed_at < $3)
            THEN completed_at ELSE $3 END AS completed_at
  FROM saga_replay_log WHERE replay_id = $1

-- name: expired
-- How many rows had expired at $1.
SELECT count(*) FROM saga_snapshots WHERE retention_until <= $1

-- name: is_upgraded
-- A row if the table is our own storage's meanwhile, which keeps what is exact in a column of its own.
SELECT 1 FROM pg_attribute
 WHERE attrelid = to_regclass('saga_snapshots') AND attname = 'body' AND NOT attisdropped
