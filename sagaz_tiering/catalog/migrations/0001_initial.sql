-- The catalog: which snapshot is in which frame of which pack, and everything the jobs must remember.

CREATE SCHEMA IF NOT EXISTS sagaz_tiering;

-- One row: who this catalog is. A bucket prefix names its owner; a catalog that is not the owner never writes there.
CREATE TABLE sagaz_tiering.owner (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    catalog_id  uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO sagaz_tiering.owner DEFAULT VALUES;

-- Who may do what now. `epoch` grows with each new holder and is checked in every state-changing transaction.
CREATE TABLE sagaz_tiering.leases (
    name        text PRIMARY KEY,
    owner       text NOT NULL,
    epoch       bigint NOT NULL DEFAULT 1,
    expires_at  timestamptz NOT NULL
);

-- The durable copy: acknowledged snapshots that are not in a pack yet. `value` is the encoded snapshot.
CREATE TABLE sagaz_tiering.saga_snapshots (
    snapshot_id      uuid PRIMARY KEY,
    saga_id          uuid NOT NULL,
    saga_name        text NOT NULL,
    step_name        text NOT NULL,
    step_index       integer NOT NULL,
    status           text NOT NULL,
    created_at       timestamptz NOT NULL,
    retention_until  timestamptz,
    saved_at         timestamptz NOT NULL,
    expires_at       timestamptz,            -- when it stops existing, by the policy of the saver
    due_at           timestamptz,            -- when the age job looks at it next
    claimed_until    timestamptz,            -- an age job works on it until then
    body_crc         bigint NOT NULL,
    spilled          boolean NOT NULL DEFAULT false,   -- Redis does not have it (it was down at the save)
    value            bytea NOT NULL
);
ALTER TABLE sagaz_tiering.saga_snapshots ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE INDEX saga_snapshots_timeline ON sagaz_tiering.saga_snapshots (saga_id, created_at DESC, step_index DESC);
CREATE INDEX saga_snapshots_due ON sagaz_tiering.saga_snapshots (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX saga_snapshots_expires ON sagaz_tiering.saga_snapshots (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX saga_snapshots_spilled ON sagaz_tiering.saga_snapshots (snapshot_id) WHERE spilled;

-- One row: since when rows above may be missing in Redis (NULL: none). Readers trust Redis alone only while it is NULL.
CREATE TABLE sagaz_tiering.spill (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    since     timestamptz
);
INSERT INTO sagaz_tiering.spill DEFAULT VALUES;

CREATE TABLE sagaz_tiering.packs (
    pack_id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pack_uuid           uuid NOT NULL UNIQUE,
    object_key          text NOT NULL UNIQUE,
    state               text NOT NULL CHECK (state IN ('UPLOADING', 'ACTIVE', 'RETIRING', 'DELETED', 'ABANDONED')),
    storage_class       text NOT NULL,
    policy              text NOT NULL,
    retention_revision  text NOT NULL,       -- by which policy texts `expires_at` of its snapshots was computed
    byte_size           bigint NOT NULL,
    snapshot_count      integer NOT NULL,
    live_count          integer NOT NULL,
    sha256              bytea NOT NULL,
    min_created_at      timestamptz NOT NULL,
    max_created_at      timestamptz NOT NULL,
    max_clock_at        timestamptz NOT NULL, -- the youngest snapshot, by its policy's clock: moves wait for it
    next_expiry_at      timestamptz,          -- no snapshot of the pack expires before
    lease_name          text NOT NULL,        -- who uploaded it, under which epoch
    lease_epoch         bigint NOT NULL,
    created_at          timestamptz NOT NULL,
    class_since         timestamptz NOT NULL,
    evicted_at          timestamptz,          -- the hot copies are gone since
    retired_at          timestamptz,
    delete_after        timestamptz,
    deleted_at          timestamptz
);
CREATE INDEX packs_state ON sagaz_tiering.packs (state, storage_class);
CREATE INDEX packs_expiry ON sagaz_tiering.packs (next_expiry_at) WHERE state = 'ACTIVE';

-- What a snapshot says of its step, once per distinct combination.
CREATE TABLE sagaz_tiering.steps (
    step_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest      bytea NOT NULL UNIQUE,
    saga_name   text NOT NULL,
    step_name   text NOT NULL,
    step_index  integer NOT NULL,
    status      text NOT NULL
);

-- A frame holds snapshots of one saga and is read by one range GET.
CREATE TABLE sagaz_tiering.frames (
    saga_id      uuid NOT NULL,
    pack_id      integer NOT NULL REFERENCES sagaz_tiering.packs,
    frame_no     integer NOT NULL,
    byte_offset  integer NOT NULL,
    byte_length  integer NOT NULL,
    PRIMARY KEY (pack_id, frame_no)
);
CREATE INDEX frames_saga ON sagaz_tiering.frames (saga_id);

-- Where each archived snapshot is: exactly one place. Columns are ordered for size (alignment).
CREATE TABLE sagaz_tiering.snapshots (
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    pack_id      integer NOT NULL,
    frame_no     integer NOT NULL,
    step_id      integer NOT NULL,
    snapshot_id  uuid NOT NULL,
    CONSTRAINT snapshots_pkey PRIMARY KEY (snapshot_id)
);
CREATE INDEX snapshots_frame ON sagaz_tiering.snapshots (pack_id, frame_no);

-- Deleted while a job may hold a copy in flight: what was saved before `deleted_at` is never published again.
CREATE TABLE sagaz_tiering.tombstones (
    snapshot_id  uuid PRIMARY KEY,
    deleted_at   timestamptz NOT NULL
);

-- Objects under the prefix that no live pack names; removed only when seen twice and old enough.
CREATE TABLE sagaz_tiering.strays (
    object_key  text PRIMARY KEY,
    byte_size   bigint NOT NULL,
    first_seen  timestamptz NOT NULL
);

CREATE TABLE sagaz_tiering.job_runs (
    job          text PRIMARY KEY,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    error        text,
    summary      json
);

CREATE TABLE sagaz_tiering.policy_revisions (
    revision    text PRIMARY KEY,
    first_seen  timestamptz NOT NULL,
    first_after interval,                 -- the youngest age at which these policies move anything (NULL: never)
    policies    json NOT NULL
);

CREATE TABLE sagaz_tiering.saga_replay_log (
    replay_id         uuid PRIMARY KEY,
    original_saga_id  uuid NOT NULL,
    new_saga_id       uuid NOT NULL,
    checkpoint_step   text NOT NULL,
    context_override  json,
    context_encoding  smallint,
    initiated_by      text NOT NULL,
    replay_status     text NOT NULL,
    error_message     text,
    created_at        timestamptz NOT NULL,
    completed_at      timestamptz
);
CREATE INDEX saga_replay_log_saga ON sagaz_tiering.saga_replay_log (original_saga_id, created_at DESC);
