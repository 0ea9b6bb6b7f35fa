-- Which Redis the catalog knows and how far it trusts it; what was forgotten; what Redis alone acknowledged.

-- One row. Redis carries `nonce` and `number` too. One with another nonce or a number that is not above this one, or that
-- runs under another id, may have lost something: what was saved before is not believed until `trusted` is true again.
CREATE TABLE sagaz_tiering.hot_tier (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    nonce          text,                            -- NULL: no Redis was met yet
    number         bigint NOT NULL DEFAULT 0,
    run_id         text NOT NULL DEFAULT '',
    noted_at       timestamptz NOT NULL DEFAULT now(),
    trusted        boolean NOT NULL DEFAULT true,
    changes        bigint NOT NULL DEFAULT 0,       -- how often it was found to be another one, or to have gone back
    changed_at     timestamptz,
    reason         text NOT NULL DEFAULT '',
    good_at        timestamptz,                     -- what Redis has was whole then (NULL: nobody knows)
    reconciled_at  timestamptz,
    lost_ever      bigint NOT NULL DEFAULT 0        -- snapshots that Redis alone had acknowledged and then lost
);
INSERT INTO sagaz_tiering.hot_tier DEFAULT VALUES;

-- Sagas that were erased, without their ids: what was saved before is never read or packed again, wherever it comes from.
CREATE TABLE sagaz_tiering.forgotten (
    saga_hash     bytea PRIMARY KEY,                -- sha256 of the id's 16 bytes
    forgotten_at  timestamptz NOT NULL
);
INSERT INTO sagaz_tiering.forgotten (saga_hash, forgotten_at)
SELECT sha256(uuid_send(saga_id)), max(requested_at) FROM sagaz_tiering.erasures GROUP BY saga_id;

CREATE FUNCTION sagaz_tiering.remember_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sagaz_tiering.forgotten (saga_hash, forgotten_at)
    VALUES (sha256(uuid_send(NEW.saga_id)), NEW.requested_at)
    ON CONFLICT (saga_hash) DO UPDATE SET forgotten_at = greatest(excluded.forgotten_at, forgotten.forgotten_at);
    RETURN NULL;
END $$;
CREATE TRIGGER erasures_are_remembered AFTER INSERT ON sagaz_tiering.erasures
    FOR EACH ROW EXECUTE FUNCTION sagaz_tiering.remember_forgotten();

-- Snapshots that Redis alone acknowledged and that have not left it. `lost_at`: Redis lost it.
CREATE TABLE sagaz_tiering.hot_saves (
    snapshot_id  uuid PRIMARY KEY,
    saga_id      uuid NOT NULL,
    saga_name    text NOT NULL,
    step_name    text NOT NULL,
    step_index   integer NOT NULL,
    status       text NOT NULL,
    created_at   timestamptz NOT NULL,
    saved_at     timestamptz NOT NULL,
    expires_at   timestamptz,
    lost_at      timestamptz
);
CREATE INDEX hot_saves_saga ON sagaz_tiering.hot_saves (saga_id);
CREATE INDEX hot_saves_lost ON sagaz_tiering.hot_saves (snapshot_id) WHERE lost_at IS NOT NULL;
