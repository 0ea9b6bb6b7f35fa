-- name: save
INSERT INTO sagaz_tiering.saga_replay_log
    (replay_id, original_saga_id, new_saga_id, checkpoint_step, context_override, initiated_by, replay_status,
     error_message, created_at, completed_at, context_encoding)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (replay_id) DO UPDATE
   SET original_saga_id = excluded.original_saga_id, new_saga_id = excluded.new_saga_id,
       checkpoint_step = excluded.checkpoint_step, context_override = excluded.context_override,
       context_encoding = excluded.context_encoding, initiated_by = excluded.initiated_by,
       replay_status = excluded.replay_status, error_message = excluded.error_message,
       created_at = excluded.created_at, completed_at = excluded.completed_at

-- name: get
SELECT * FROM sagaz_tiering.saga_replay_log WHERE replay_id = $1

-- name: of_saga
SELECT * FROM sagaz_tiering.saga_replay_log WHERE original_saga_id = $1
 ORDER BY created_at DESC, replay_id DESC LIMIT $2

-- name: of_sagas
-- Of these, saga by saga, oldest first.
SELECT * FROM sagaz_tiering.saga_replay_log WHERE original_saga_id = ANY($1::uuid[])
 ORDER BY original_saga_id, created_at, replay_id

-- name: page
SELECT * FROM sagaz_tiering.saga_replay_log WHERE $1::uuid IS NULL OR replay_id > $1 ORDER BY replay_id LIMIT $2
