-- What a saga has beyond 16 values of an attribute is known: no save of it looks at all of the saga once more, and it is told.
-- And statements that change many rows look at each of their sagas once.

-- Sagas with more values of an attribute than they are found by; they are found by 16 of it.
CREATE TABLE sagaz_tiering.sagas_of_many_values (
    saga_id    uuid NOT NULL REFERENCES sagaz_tiering.sagas ON DELETE CASCADE,
    attribute  text NOT NULL,
    PRIMARY KEY (saga_id, attribute)
);

-- The tokens that these sagas have by now find them. Their rows of `sagas` are locked already.
CREATE OR REPLACE FUNCTION sagaz_tiering.add_tokens(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH tokens AS MATERIALIZED (
        SELECT t.saga_id, g.place, v.attribute, v.key, a.key IS NOT NULL AS there,
               row_number() OVER (PARTITION BY t.saga_id, v.attribute ORDER BY a.key IS NULL, t.first_at, t.token) AS number
          FROM sagaz_tiering.tokens_in_tables(ids) t
          JOIN sagaz_tiering.sagas g ON g.saga_id = t.saga_id
         CROSS JOIN LATERAL (SELECT split_part(t.token, '=', 1), sagaz_tiering.attribute_key(t.token)) AS v (attribute, key)
          LEFT JOIN sagaz_tiering.saga_attributes a ON a.key = v.key AND a.place = g.place AND a.saga_id = t.saga_id
         WHERE g.place IS NOT NULL),
    added AS (
        INSERT INTO sagaz_tiering.saga_attributes (key, place, saga_id)
        SELECT t.key, t.place, t.saga_id FROM tokens t WHERE t.number <= 16 AND NOT t.there),
    fewer AS (
        DELETE FROM sagaz_tiering.sagas_of_many_values m
         WHERE m.saga_id = ANY(ids)
           AND NOT EXISTS (SELECT 1 FROM tokens t
                            WHERE t.saga_id = m.saga_id AND t.attribute = m.attribute AND t.number > 16))
    INSERT INTO sagaz_tiering.sagas_of_many_values (saga_id, attribute)
    SELECT t.saga_id, t.attribute FROM tokens t WHERE t.number = 17
    ON CONFLICT DO NOTHING;
END $$;

-- These tokens, in parallel arrays, went with rows of these sagas: they find them no more where no other row has them.
CREATE OR REPLACE FUNCTION sagaz_tiering.drop_tokens(ids uuid[], tokens text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    others uuid[] := ARRAY(SELECT DISTINCT u.id FROM unnest(ids) AS u (id));
BEGIN
    DELETE FROM sagaz_tiering.saga_attributes a
     USING (SELECT u.saga_id, u.token FROM unnest(ids, tokens) AS u (saga_id, token)
            EXCEPT SELECT t.saga_id, t.token FROM sagaz_tiering.tokens_in_tables(others) t) AS v,
           sagaz_tiering.sagas g
     WHERE g.saga_id = v.saga_id AND a.key = sagaz_tiering.attribute_key(v.token) AND a.place = g.place
       AND a.saga_id = v.saga_id;
    -- One that was beyond the sixteenth may follow, or none is beyond it any more.
    others := ARRAY(SELECT DISTINCT m.saga_id FROM sagaz_tiering.sagas_of_many_values m WHERE m.saga_id = ANY(others));
    IF others <> '{}' THEN
        PERFORM sagaz_tiering.add_tokens(others);
    END IF;
END $$;

-- Plans are kept as they were made when tables were small, so none reads a whole table.
CREATE OR REPLACE FUNCTION sagaz_tiering.note_saga_ends() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    not_filled uuid := (SELECT up_to FROM sagaz_tiering.sagas_filled);
    begun uuid[];
    these uuid[];
    ended bigint;
BEGIN
    IF EXISTS (SELECT 1 FROM saved n WHERE (SELECT 1 FROM sagaz_tiering.saga_names m
                                             WHERE m.digest = sagaz_tiering.name_digest(n.saga_name)) IS NULL) THEN
        PERFORM sagaz_tiering.add_names(ARRAY(SELECT n.saga_name FROM saved n));
    END IF;
    WITH put AS (
        INSERT INTO sagaz_tiering.sagas AS g
            (ended_at, end_step, saga_id, end_id, status, place, name_id, step_name, attributes)
        SELECT DISTINCT ON (n.saga_id) n.created_at, n.step_index, n.saga_id, n.snapshot_id, n.status,
               sagaz_tiering.place_of(min(n.created_at) OVER (PARTITION BY n.saga_id), n.saga_id), m.name_id, n.step_name,
               n.attributes
          FROM saved n LEFT JOIN sagaz_tiering.saga_names m ON m.digest = sagaz_tiering.name_digest(n.saga_name)
         ORDER BY n.saga_id, n.created_at DESC, n.step_index DESC, n.snapshot_id DESC
        ON CONFLICT (saga_id) DO UPDATE
           SET ended_at = excluded.ended_at, end_step = excluded.end_step, end_id = excluded.end_id,
               status = excluded.status, name_id = excluded.name_id, step_name = excluded.step_name,
               attributes = excluded.attributes,
               changed = g.changed OR g.kept_us IS NOT NULL
         WHERE (excluded.ended_at, excluded.end_step, excluded.end_id) > (g.ended_at, g.end_step, g.end_id)
        RETURNING g.saga_id, g.xmax = 0 AS is_new)
    SELECT count(*), array_agg(p.saga_id) FILTER (WHERE p.is_new AND (not_filled IS NULL OR p.saga_id <= not_filled))
      INTO ended, begun FROM put p;
    IF not_filled IS NOT NULL THEN  -- there may be more of them than `sagas` knew
        PERFORM sagaz_tiering.place_sagas(ARRAY(SELECT DISTINCT n.saga_id FROM saved n WHERE n.saga_id > not_filled), false);
    END IF;
    IF EXISTS (SELECT 1 FROM saved n WHERE n.attributes IS NOT NULL) THEN
        WITH tokens AS MATERIALIZED (
            SELECT v.saga_id, v.attribute, sagaz_tiering.attribute_key(v.token) AS key,
                   (SELECT g.place FROM sagaz_tiering.sagas g WHERE g.saga_id = v.saga_id) AS place,
                   coalesce(v.saga_id = ANY(begun), false) AS is_new,
                   row_number() OVER (PARTITION BY v.saga_id, v.attribute ORDER BY v.first_at, v.token) AS number
              FROM (SELECT n.saga_id, split_part(t.token, '=', 1) AS attribute, t.token, min(n.created_at) AS first_at
                      FROM saved n, sagaz_tiering.tokens_of(n.attributes) AS t (token)
                     GROUP BY n.saga_id, t.token) AS v),
        added AS (
            INSERT INTO sagaz_tiering.saga_attributes (key, place, saga_id)
            SELECT k.key, k.place, k.saga_id FROM tokens k WHERE k.is_new AND k.number <= 16),
        over AS (
            INSERT INTO sagaz_tiering.sagas_of_many_values (saga_id, attribute)
            SELECT k.saga_id, k.attribute FROM tokens k WHERE k.is_new AND k.number = 17)
        SELECT array_agg(DISTINCT k.saga_id) INTO these
          FROM tokens k
         WHERE NOT k.is_new AND k.place IS NOT NULL
           AND (SELECT 1 FROM sagaz_tiering.saga_attributes a
                 WHERE a.key = k.key AND a.place = k.place AND a.saga_id = k.saga_id LIMIT 1) IS NULL
           AND (SELECT 1 FROM sagaz_tiering.sagas_of_many_values m
                 WHERE m.saga_id = k.saga_id AND m.attribute = k.attribute) IS NULL;
        IF these <> '{}' THEN  -- of sagas that have others: no more than they may have
            PERFORM sagaz_tiering.add_tokens(these);
        END IF;
    END IF;
    IF ended = (SELECT count(*) FROM saved) THEN
        RETURN NULL;
    END IF;
    these := ARRAY(SELECT DISTINCT n.saga_id FROM saved n JOIN sagaz_tiering.sagas g USING (saga_id)
                   WHERE sagaz_tiering.place_of(n.created_at, n.saga_id) < g.place);
    IF these <> '{}' THEN  -- it began earlier than was known
        PERFORM sagaz_tiering.place_sagas(these, false);
    END IF;
    these := ARRAY(SELECT g.saga_id
                    FROM saved n
                    JOIN sagaz_tiering.sagas g ON g.saga_id = n.saga_id AND g.end_id = n.snapshot_id
                    LEFT JOIN sagaz_tiering.saga_names m USING (name_id)
                   WHERE (n.created_at, n.step_index, n.status, n.attributes)
                         IS DISTINCT FROM (g.ended_at, g.end_step, g.status, g.attributes)
                      OR g.place IS NOT NULL AND (n.saga_name, n.step_name) IS DISTINCT FROM (m.saga_name, g.step_name));
    IF these <> '{}' THEN  -- the newest one is archived or told by Redis, and saved anew or told in full
        PERFORM sagaz_tiering.refresh_sagas(these);
    END IF;
    RETURN NULL;
END $$;

-- What a statement changed of rows that are there; once for each saga, however many of its rows that are.
DROP TRIGGER saved_anew_ends_sagas ON sagaz_tiering.saga_snapshots;
DROP TRIGGER saved_anew_ends_sagas ON sagaz_tiering.hot_saves;
CREATE OR REPLACE FUNCTION sagaz_tiering.refresh_saved_anew() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    ids uuid[];
    losing uuid[];
    lost text[];
BEGIN
    IF NOT EXISTS (SELECT 1 FROM after_it) THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(DISTINCT u.id) INTO ids
      FROM before_it o JOIN after_it n USING (snapshot_id), unnest(ARRAY[o.saga_id, n.saga_id]) AS u (id)
     WHERE (o.saga_id, o.created_at, o.step_index, o.status, o.saga_name, o.step_name, o.attributes)
           IS DISTINCT FROM
           (n.saga_id, n.created_at, n.step_index, n.status, n.saga_name, n.step_name, n.attributes);
    IF ids IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(v.saga_id), array_agg(v.token) INTO losing, lost
      FROM (SELECT DISTINCT o.saga_id, t.token
              FROM before_it o JOIN after_it n USING (snapshot_id), sagaz_tiering.tokens_of(o.attributes) AS t (token)
             WHERE (o.saga_id, o.attributes) IS DISTINCT FROM (n.saga_id, n.attributes)) AS v;
    IF losing <> '{}' THEN
        PERFORM sagaz_tiering.add_names_of(ids);
        PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
        PERFORM sagaz_tiering.drop_tokens(losing, lost);
    END IF;
    PERFORM sagaz_tiering.refresh_sagas(ids);
    RETURN NULL;
END $$;
CREATE TRIGGER saved_anew_ends_sagas
    AFTER UPDATE ON sagaz_tiering.saga_snapshots REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.refresh_saved_anew();
CREATE TRIGGER saved_anew_ends_sagas
    AFTER UPDATE ON sagaz_tiering.hot_saves REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.refresh_saved_anew();
