-- Holds by attributes of sagas. `match` stays as applications of the earlier version read it, for which such a hold may be on
-- any saga of its names.
ALTER TABLE sagaz_tiering.holds ADD COLUMN attributes json, ADD COLUMN attributes_re text;

CREATE FUNCTION sagaz_tiering.whole_match(match json, outcome json, attributes json) RETURNS json
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN $3 IS NULL THEN sagaz_tiering.whole_match($1, $2)
                ELSE (sagaz_tiering.whole_match($1, $2)::jsonb || jsonb_build_object('attributes', $3))::json END
$$;

-- Of a column of attributes, the tokens of these.
CREATE FUNCTION sagaz_tiering.attributes_named(attributes text, names text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN $1 IS NULL OR $2 = '{}' THEN ''
                ELSE coalesce((SELECT string_agg(u.token, U&'\001F' ORDER BY u.number)
                                 FROM unnest(string_to_array($1, U&'\001F')) WITH ORDINALITY AS u (token, number)
                                WHERE split_part(u.token, '=', 1) = ANY($2)), '') END
$$;

-- Whether a saga ends so: regular expressions over its outcome and over the attributes of its end (NULL: any).
CREATE FUNCTION sagaz_tiering.ends_so(saga uuid, outcome_re text, attributes_re text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT 1 FROM sagaz_tiering.saga_ends(ARRAY[$1]) e
                    WHERE ($2 IS NULL OR sagaz_tiering.outcome_of(e.status) ~ $2)
                      AND ($3 IS NULL OR coalesce(e.attributes, '') ~ $3))
$$;

-- Whether a snapshot is held; `ended`, `ended_with`: status and attributes of the end of its saga, where the caller knows
-- better than the tables.
DROP FUNCTION sagaz_tiering.is_held(uuid, text, text, text, text);
CREATE FUNCTION sagaz_tiering.is_held(saga uuid, saga_name text, step_name text, status text, ended text DEFAULT NULL,
                                      ended_with text DEFAULT NULL)
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds h
                    WHERE (h.saga_id IS NULL OR h.saga_id = $1)
                      AND (h.saga_name_re IS NULL OR $2 ~ h.saga_name_re)
                      AND (h.step_name_re IS NULL OR $3 ~ h.step_name_re)
                      AND (h.status_re IS NULL OR $4 ~ h.status_re)
                      AND (h.outcome_re IS NULL
                           OR sagaz_tiering.outcome_of(coalesce(
                                  $5, (SELECT g.status FROM sagaz_tiering.sagas g WHERE g.saga_id = $1),
                                  (SELECT e.status FROM sagaz_tiering.ends_in_tables(ARRAY[$1]) e), $4)) ~ h.outcome_re)
                      AND (h.attributes_re IS NULL
                           OR coalesce(
                                  $6, (SELECT coalesce(g.attributes, '') FROM sagaz_tiering.sagas g WHERE g.saga_id = $1),
                                  (SELECT e.attributes FROM sagaz_tiering.ends_in_tables(ARRAY[$1]) e), '')
                              ~ h.attributes_re))
$$;
