-- Legal holds: what must not go, whatever the policies say.

-- Who placed and released what, and why. Only ever appended to.
CREATE TABLE sagaz_tiering.hold_log (
    entry_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hold_id    uuid NOT NULL,
    action     text NOT NULL CHECK (action IN ('hold', 'release')),
    at         timestamptz NOT NULL,
    who        text NOT NULL,
    reason     text NOT NULL,
    saga_id    uuid,
    match      json
);
CREATE INDEX hold_log_hold ON sagaz_tiering.hold_log (hold_id);

CREATE FUNCTION sagaz_tiering.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'hold_log is only ever appended to';
END $$;
CREATE TRIGGER hold_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON sagaz_tiering.hold_log
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.refuse_change();

-- The holds in force. `saga_id`, or regular expressions of the match (NULL: any).
CREATE TABLE sagaz_tiering.holds (
    hold_id        uuid PRIMARY KEY,
    saga_id        uuid,
    match          json,
    saga_name_re   text,
    step_name_re   text,
    status_re      text,
    reason         text NOT NULL,
    placed_by      text NOT NULL,
    placed_at      timestamptz NOT NULL
);
CREATE INDEX holds_saga ON sagaz_tiering.holds (saga_id);

CREATE FUNCTION sagaz_tiering.is_held(saga uuid, saga_name text, step_name text, status text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds h
                    WHERE (h.saga_id IS NULL OR h.saga_id = $1)
                      AND (h.saga_name_re IS NULL OR $2 ~ h.saga_name_re)
                      AND (h.step_name_re IS NULL OR $3 ~ h.step_name_re)
                      AND (h.status_re IS NULL OR $4 ~ h.status_re))
$$;
