-- Holds by how sagas end. `match` stays as applications of the earlier version read it, for which such a hold may be on any
-- saga of its names.
ALTER TABLE sagaz_tiering.holds ADD COLUMN outcome json, ADD COLUMN outcome_re text;

CREATE FUNCTION sagaz_tiering.whole_match(match json, outcome json) RETURNS json LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN $2 IS NULL THEN $1 ELSE ($1::jsonb || jsonb_build_object('outcome', $2))::json END
$$;

-- The outcome of a saga whose newest snapshot has that status.
CREATE FUNCTION sagaz_tiering.outcome_of(status text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN $1 IN ('pending', 'executing', 'compensating', 'forward_recovery') THEN 'running' ELSE $1 END
$$;

-- Whether a snapshot is held; `ended`: the status of the end of its saga, where the caller knows better than the tables.
DROP FUNCTION sagaz_tiering.is_held(uuid, text, text, text);
CREATE FUNCTION sagaz_tiering.is_held(saga uuid, saga_name text, step_name text, status text, ended text DEFAULT NULL)
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds h
                    WHERE (h.saga_id IS NULL OR h.saga_id = $1)
                      AND (h.saga_name_re IS NULL OR $2 ~ h.saga_name_re)
                      AND (h.step_name_re IS NULL OR $3 ~ h.step_name_re)
                      AND (h.status_re IS NULL OR $4 ~ h.status_re)
                      AND (h.outcome_re IS NULL
                           OR sagaz_tiering.outcome_of(coalesce(
                                  $5, (SELECT g.status FROM sagaz_tiering.sagas g WHERE g.saga_id = $1),
                                  (SELECT e.status FROM sagaz_tiering.ends_in_tables(ARRAY[$1]) e), $4)) ~ h.outcome_re))
$$;
