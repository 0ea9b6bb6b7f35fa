-- A save by itself ends its saga by one statement: what tells the row of `sagas` also finds the name and what is not filled yet.
-- Whatever it does not take (many rows, a name that is new, a save that is not the newest) goes the way for any number of rows.

CREATE OR REPLACE FUNCTION sagaz_tiering.note_saga_ends() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    saga uuid;
    is_new boolean;
    not_filled uuid;
    number bigint;
    carry boolean;
    names text[];
    begun uuid[];
    these uuid[];
    ended bigint;
BEGIN
    INSERT INTO sagaz_tiering.sagas AS g
        (ended_at, end_step, saga_id, end_id, status, place, name_id, step_name, attributes)
    SELECT n.created_at, n.step_index, n.saga_id, n.snapshot_id, n.status, sagaz_tiering.place_of(n.created_at, n.saga_id),
           m.name_id, n.step_name, n.attributes
      FROM saved n
      JOIN sagaz_tiering.saga_names m ON m.digest = sagaz_tiering.name_digest(n.saga_name) AND m.unused_since IS NULL
     WHERE (SELECT count(*) FROM (SELECT FROM saved LIMIT 2) AS s) = 1
    ON CONFLICT (saga_id) DO UPDATE
       SET ended_at = excluded.ended_at, end_step = excluded.end_step, end_id = excluded.end_id,
           status = excluded.status, name_id = excluded.name_id, step_name = excluded.step_name,
           attributes = excluded.attributes,
           changed = g.changed OR g.kept_us IS NOT NULL
     WHERE (excluded.ended_at, excluded.end_step, excluded.end_id) > (g.ended_at, g.end_step, g.end_id)
    RETURNING g.saga_id, g.xmax = 0, g.attributes IS NOT NULL, (SELECT up_to FROM sagaz_tiering.sagas_filled)
         INTO saga, is_new, carry, not_filled;
    IF FOUND THEN
        IF not_filled IS NULL AND NOT carry THEN
            RETURN NULL;
        END IF;
        number := 1;
        ended := 1;
        begun := CASE WHEN is_new AND (not_filled IS NULL OR saga <= not_filled) THEN ARRAY[saga] END;
    ELSE
        SELECT count(*), bool_or(n.attributes IS NOT NULL), array_agg(DISTINCT n.saga_name),
               (SELECT up_to FROM sagaz_tiering.sagas_filled)
          INTO number, carry, names, not_filled FROM saved n;
        IF (SELECT count(*) FROM sagaz_tiering.saga_names m
             WHERE m.digest = ANY(ARRAY(SELECT sagaz_tiering.name_digest(u.saga_name) FROM unnest(names) AS u (saga_name)))
               AND m.unused_since IS NULL) < cardinality(names) THEN
            PERFORM sagaz_tiering.add_names(names);
        END IF;
        WITH put AS (
            INSERT INTO sagaz_tiering.sagas AS g
                (ended_at, end_step, saga_id, end_id, status, place, name_id, step_name, attributes)
            SELECT n.created_at, n.step_index, n.saga_id, n.snapshot_id, n.status,
                   sagaz_tiering.place_of(n.began_at, n.saga_id),
                   (SELECT m.name_id FROM sagaz_tiering.saga_names m WHERE m.digest = sagaz_tiering.name_digest(n.saga_name)),
                   n.step_name, n.attributes
              FROM (SELECT DISTINCT ON (s.saga_id) s.saga_id, s.created_at, s.step_index, s.snapshot_id, s.status, s.saga_name,
                           s.step_name, s.attributes, min(s.created_at) OVER (PARTITION BY s.saga_id) AS began_at
                      FROM saved s
                     ORDER BY s.saga_id, s.created_at DESC, s.step_index DESC, s.snapshot_id DESC) AS n
            ON CONFLICT (saga_id) DO UPDATE
               SET ended_at = excluded.ended_at, end_step = excluded.end_step, end_id = excluded.end_id,
                   status = excluded.status, name_id = excluded.name_id, step_name = excluded.step_name,
                   attributes = excluded.attributes,
                   changed = g.changed OR g.kept_us IS NOT NULL
             WHERE (excluded.ended_at, excluded.end_step, excluded.end_id) > (g.ended_at, g.end_step, g.end_id)
            RETURNING g.saga_id, g.xmax = 0 AS is_new)
        SELECT count(*), array_agg(p.saga_id) FILTER (WHERE p.is_new AND (not_filled IS NULL OR p.saga_id <= not_filled))
          INTO ended, begun FROM put p;
    END IF;
    IF not_filled IS NOT NULL THEN  -- there may be more of them than `sagas` knew
        PERFORM sagaz_tiering.place_sagas(ARRAY(SELECT DISTINCT n.saga_id FROM saved n WHERE n.saga_id > not_filled), false);
    END IF;
    IF carry THEN
        WITH tokens AS MATERIALIZED (
            SELECT v.saga_id, v.attribute, sagaz_tiering.attribute_key(v.token) AS key,
                   (SELECT g.place FROM sagaz_tiering.sagas g WHERE g.saga_id = v.saga_id) AS place,
                   v.saga_id IN (SELECT u.id FROM unnest(begun) AS u (id)) AS is_new,
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
    IF ended = number THEN
        RETURN NULL;
    END IF;
    these := ARRAY(SELECT DISTINCT n.saga_id FROM saved n
                   WHERE sagaz_tiering.place_of(n.created_at, n.saga_id)
                         < (SELECT g.place FROM sagaz_tiering.sagas g WHERE g.saga_id = n.saga_id));
    IF these <> '{}' THEN  -- it began earlier than was known
        PERFORM sagaz_tiering.place_sagas(these, false);
    END IF;
    these := ARRAY(SELECT n.saga_id
                    FROM saved n
                   CROSS JOIN LATERAL (
                         SELECT g.ended_at, g.end_step, g.status, g.attributes, g.place, g.step_name,
                                (SELECT m.saga_name FROM sagaz_tiering.saga_names m WHERE m.name_id = g.name_id)
                           FROM sagaz_tiering.sagas g
                          WHERE g.saga_id = n.saga_id AND g.end_id = n.snapshot_id OFFSET 0)
                         AS e (ended_at, end_step, status, attributes, place, step_name, saga_name)
                   WHERE (n.created_at, n.step_index, n.status, n.attributes)
                         IS DISTINCT FROM (e.ended_at, e.end_step, e.status, e.attributes)
                      OR e.place IS NOT NULL AND (n.saga_name, n.step_name) IS DISTINCT FROM (e.saga_name, e.step_name));
    IF these <> '{}' THEN  -- the newest one is archived or told by Redis, and saved anew or told in full
        PERFORM sagaz_tiering.refresh_sagas(these);
    END IF;
    RETURN NULL;
END $$;
