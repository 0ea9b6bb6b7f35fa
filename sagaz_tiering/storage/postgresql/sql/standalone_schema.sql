-- name: create_tables
-- The tables of `PostgreSQLSnapshotStorage`, in the first schema of the search path. Safe to run again, and by
-- several at once. Tables that sagaz 1.5.0 made are upgraded where they are, and their rows stay readable. After
-- that sagaz's own storage cannot write to them any more: it relies on UNIQUE (saga_id, step_name, created_at),
-- under which one of two snapshots of the same instant would replace the other.

-- One at a time: two CREATE TABLE IF NOT EXISTS at once are an error for one of them. Ends with the transaction.
SELECT pg_advisory_xact_lock(3526401927);

-- VARCHAR has no length here: VARCHAR(255) and VARCHAR(50) are too short for names that are legal.
-- Names hold NUL, lone surrogates and the backslash as the escapes \u0000 and \\ where body is not NULL.
CREATE TABLE IF NOT EXISTS saga_snapshots (
    snapshot_id      UUID PRIMARY KEY,
    saga_id          UUID NOT NULL,
    saga_name        VARCHAR NOT NULL,
    step_name        VARCHAR NOT NULL,
    step_index       INTEGER NOT NULL,
    status           VARCHAR NOT NULL,
    context          JSONB NOT NULL,
    completed_steps  JSONB NOT NULL,
    created_at       TIMESTAMPTZ DEFAULT NOW(),
    retention_until  TIMESTAMPTZ
);

CREATE TABLE IF NOT EXISTS saga_replay_log (
    replay_id        UUID PRIMARY KEY,
    original_saga_id UUID NOT NULL,
    new_saga_id      UUID NOT NULL,
    checkpoint_step  VARCHAR NOT NULL,
    context_override JSONB,
    initiated_by     VARCHAR NOT NULL,
    replay_status    VARCHAR NOT NULL,
    error_message    TEXT,
    created_at       TIMESTAMPTZ DEFAULT NOW(),
    completed_at     TIMESTAMPTZ
);

ALTER TABLE saga_snapshots DROP CONSTRAINT IF EXISTS idx_saga_snapshots_saga_id_step;
ALTER TABLE saga_snapshots
    ALTER COLUMN saga_name TYPE VARCHAR,
    ALTER COLUMN step_name TYPE VARCHAR,
    ALTER COLUMN status    TYPE VARCHAR;
ALTER TABLE saga_replay_log
    ALTER COLUMN checkpoint_step TYPE VARCHAR,
    ALTER COLUMN initiated_by    TYPE VARCHAR,
    ALTER COLUMN replay_status   TYPE VARCHAR;

-- JSONB is for queries: it knows neither NUL nor NaN, nor the order of keys, and types such as datetime are text
-- in it. What reads return is `body`, the exact form (zstd). Rows without one (sagaz's, or inserted by hand) are
-- read from JSONB.
ALTER TABLE saga_snapshots
    ADD COLUMN IF NOT EXISTS external_refs JSONB NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS body BYTEA;
ALTER TABLE saga_replay_log ADD COLUMN IF NOT EXISTS body BYTEA;
-- It is compressed already.
ALTER TABLE saga_snapshots ALTER COLUMN body SET STORAGE EXTERNAL;

-- Whoever changes the JSONB by SQL (a correction, a redaction) means it: the exact form of what was there before
-- goes with it. The empty body that stays says that names are escaped.
CREATE OR REPLACE FUNCTION saga_body_outdated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.body := '';
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS saga_snapshots_edited ON saga_snapshots;
CREATE TRIGGER saga_snapshots_edited
    BEFORE UPDATE OF context, completed_steps, external_refs ON saga_snapshots FOR EACH ROW
    WHEN (OLD.body = NEW.body AND (OLD.context, OLD.completed_steps, OLD.external_refs)
          IS DISTINCT FROM (NEW.context, NEW.completed_steps, NEW.external_refs))
    EXECUTE FUNCTION saga_body_outdated();
DROP TRIGGER IF EXISTS saga_replay_log_edited ON saga_replay_log;
CREATE TRIGGER saga_replay_log_edited
    BEFORE UPDATE OF context_override ON saga_replay_log FOR EACH ROW
    WHEN (OLD.body = NEW.body AND OLD.context_override IS DISTINCT FROM NEW.context_override)
    EXECUTE FUNCTION saga_body_outdated();

-- Time travel reads the order (created_at, step_index, snapshot_id) in both directions.
CREATE INDEX IF NOT EXISTS idx_saga_snapshots_order
    ON saga_snapshots (saga_id, created_at DESC, step_index DESC, snapshot_id DESC);
CREATE INDEX IF NOT EXISTS idx_saga_snapshots_retention
    ON saga_snapshots (retention_until) WHERE retention_until IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_replay_log_order
    ON saga_replay_log (original_saga_id, created_at DESC, replay_id DESC);

-- name: lock
-- The lock of create_tables, to look again before it is run.
SELECT pg_advisory_xact_lock(3526401927)

-- name: found
-- What is there of the tables: columns as `name type`; indexes, triggers and constraints by name and definition.
SELECT c.relname AS name, n.nspname AS schema, getdatabaseencoding() AS encoding,
       ARRAY(SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
               FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT r.relname::text FROM pg_index i JOIN pg_class r ON r.oid = i.indexrelid
              WHERE i.indrelid = c.oid AND i.indisvalid
             UNION ALL SELECT t.tgname FROM pg_trigger t WHERE t.tgrelid = c.oid
             UNION ALL SELECT k.conname FROM pg_constraint k WHERE k.conrelid = c.oid
             UNION ALL SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
                        WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u')) AS parts
  FROM unnest($1::text[]) AS wanted
  JOIN pg_class c ON c.oid = to_regclass(wanted)
  JOIN pg_namespace n ON n.oid = c.relnamespace

-- name: work_in
-- For this transaction: the schema whose tables are upgraded is the one that missing ones are made in.
SELECT set_config('search_path', quote_ident($1), true)
