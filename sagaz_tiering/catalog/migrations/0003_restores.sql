-- Restores: durable requests to make archived snapshots readable, worked off pack by pack.

CREATE TABLE sagaz_tiering.restores (
    restore_id      uuid PRIMARY KEY,
    state           text NOT NULL CHECK (state IN ('RESTORING', 'READY', 'DONE', 'CANCELLED', 'FAILED')),
    digest          bytea NOT NULL,           -- of what is asked for: the same request twice is one
    retrieval       text NOT NULL,            -- Expedited, Standard or Bulk
    days            integer NOT NULL,
    into_hot        boolean NOT NULL,         -- copied back to Redis and pinned, or read where it is
    requested_by    text NOT NULL,
    requested_at    timestamptz NOT NULL,
    eta_at          timestamptz NOT NULL,
    cost_usd        double precision NOT NULL,
    snapshot_count  integer NOT NULL,
    ready_at        timestamptz,
    readable_until  timestamptz,
    ended_at        timestamptz,
    notified_at     timestamptz,
    notify_attempts integer NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX restores_active ON sagaz_tiering.restores (digest, into_hot) WHERE state IN ('RESTORING', 'READY');
CREATE INDEX restores_requested ON sagaz_tiering.restores (requested_at);

CREATE TABLE sagaz_tiering.restore_packs (
    restore_id  uuid NOT NULL REFERENCES sagaz_tiering.restores,
    pack_id     integer NOT NULL REFERENCES sagaz_tiering.packs,
    state       text NOT NULL CHECK (state IN ('WAITING', 'ASKED', 'READABLE', 'DONE', 'FAILED')),
    error       text,
    PRIMARY KEY (restore_id, pack_id)
);
CREATE INDEX restore_packs_pack ON sagaz_tiering.restore_packs (pack_id);

CREATE TABLE sagaz_tiering.restore_items (
    restore_id   uuid NOT NULL REFERENCES sagaz_tiering.restores,
    pack_id      integer NOT NULL,
    snapshot_id  uuid NOT NULL,
    PRIMARY KEY (restore_id, pack_id, snapshot_id)
);

-- Snapshots that were brought back and stay in Redis until then.
CREATE TABLE sagaz_tiering.pins (
    snapshot_id  uuid PRIMARY KEY,
    until        timestamptz NOT NULL
);
CREATE INDEX pins_until ON sagaz_tiering.pins (until);
