-- Data keys of encrypted sagas, each wrapped by a master key that is not here; destroying one erases its saga.
CREATE TABLE sagaz_tiering.saga_keys (
    key_id      uuid PRIMARY KEY,
    saga_id     uuid NOT NULL,
    number      smallint NOT NULL DEFAULT 0,   -- 0: what is packed now is encrypted with it; others come from backups
    wrapped     bytea NOT NULL,
    master_id   text NOT NULL,
    created_at  timestamptz NOT NULL,
    UNIQUE (saga_id, number)
);
-- NULL: not encrypted. No reference: a frame outlives its key.
ALTER TABLE sagaz_tiering.frames ADD COLUMN key_id uuid;
ALTER TABLE sagaz_tiering.erasures ADD COLUMN key_destroyed timestamptz;
ALTER TABLE sagaz_tiering.erasures ADD COLUMN undecipherable_packs integer NOT NULL DEFAULT 0;
