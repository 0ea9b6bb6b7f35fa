-- Erasures: orders to remove a saga everywhere, and the packs whose bytes still have to go.
CREATE TABLE sagaz_tiering.erasures (
    erasure_id    uuid PRIMARY KEY,
    saga_id       uuid NOT NULL,
    requested_at  timestamptz NOT NULL,
    who           text NOT NULL,
    reason        text NOT NULL,
    hot           integer NOT NULL,
    durable       integer NOT NULL,
    archived      integer NOT NULL,
    replays       integer NOT NULL,
    hot_done_at   timestamptz            -- NULL: a crash came before Redis was cleared; the job compact does it
);
CREATE INDEX erasures_saga ON sagaz_tiering.erasures (saga_id);
CREATE TABLE sagaz_tiering.erasure_packs (
    erasure_id  uuid NOT NULL REFERENCES sagaz_tiering.erasures,
    pack_id     integer NOT NULL REFERENCES sagaz_tiering.packs,
    PRIMARY KEY (erasure_id, pack_id)
);
CREATE INDEX erasure_packs_pack ON sagaz_tiering.erasure_packs (pack_id);
