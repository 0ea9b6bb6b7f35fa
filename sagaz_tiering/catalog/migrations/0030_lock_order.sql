-- One order of locks: rows of snapshots, then packs, names, sagas by id, and after those frames and attributes. Whoever removes
-- something of a saga has the saga's row before it looks at what is left, so that it sees who saves at the same time. Places
-- stay within what their bits can tell.

-- Times beyond 1827 and 2112 have the places of those.
CREATE OR REPLACE FUNCTION sagaz_tiering.place_of(began_at timestamptz, saga_id uuid) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (least(greatest(extract(epoch FROM $1) * 1000000, -4503599627370495), 4503599627370495)::bigint << 11)
           | ((get_byte(uuid_send($2), 14) << 8 | get_byte(uuid_send($2), 15)) & 2047)
$$;

-- What `place_sagas` does where names are added and the rows of `sagas` are locked.
CREATE FUNCTION sagaz_tiering.place_locked(ids uuid[], went boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH found AS MATERIALIZED (
        SELECT n.saga_id, m.name_id, n.step_name, g.place AS before,
               CASE WHEN went THEN p.place ELSE least(g.place, p.place) END AS place
          FROM sagaz_tiering.names_in_tables(ids) n
          JOIN sagaz_tiering.sagas g ON g.saga_id = n.saga_id
          JOIN sagaz_tiering.saga_names m ON m.digest = sagaz_tiering.name_digest(n.saga_name),
               sagaz_tiering.place_of(n.began_at, n.saga_id) AS p (place)),
    tokens AS (
        UPDATE sagaz_tiering.saga_attributes a SET place = f.place
          FROM found f JOIN sagaz_tiering.tokens_in_tables(ids) t ON t.saga_id = f.saga_id
         WHERE f.place <> f.before AND a.key = sagaz_tiering.attribute_key(t.token) AND a.place = f.before
           AND a.saga_id = f.saga_id)
    UPDATE sagaz_tiering.sagas g SET place = f.place, name_id = f.name_id, step_name = f.step_name
      FROM found f
     WHERE g.saga_id = f.saga_id
       AND (f.place, f.name_id, f.step_name) IS DISTINCT FROM (g.place, g.name_id, g.step_name);
    PERFORM sagaz_tiering.add_tokens(ids);
END $$;

-- The names that these sagas have in any table, before their rows are locked.
CREATE FUNCTION sagaz_tiering.add_names_of(ids uuid[]) RETURNS void LANGUAGE sql AS $$
    SELECT sagaz_tiering.add_names(ARRAY(SELECT DISTINCT n.saga_name FROM sagaz_tiering.names_in_tables(ids) n))
$$;

CREATE OR REPLACE FUNCTION sagaz_tiering.place_sagas(ids uuid[], went boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sagaz_tiering.add_names_of(ids);
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
    PERFORM sagaz_tiering.place_locked(ids, went);
END $$;

CREATE OR REPLACE FUNCTION sagaz_tiering.refresh_sagas(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sagaz_tiering.add_names_of(ids);
    -- Whoever saves one of them now waits for us and adds to it, or was before us and is seen.
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
    INSERT INTO sagaz_tiering.sagas AS g (ended_at, end_step, saga_id, end_id, status, attributes)
    SELECT e.ended_at, e.end_step, e.saga_id, e.end_id, e.status, e.attributes FROM sagaz_tiering.ends_in_tables(ids) e
    ON CONFLICT (saga_id) DO UPDATE
       SET ended_at = excluded.ended_at, end_step = excluded.end_step, end_id = excluded.end_id,
           status = excluded.status, attributes = excluded.attributes, changed = g.changed OR g.kept_us IS NOT NULL
     WHERE (excluded.ended_at, excluded.end_step, excluded.end_id, excluded.status, excluded.attributes)
           IS DISTINCT FROM (g.ended_at, g.end_step, g.end_id, g.status, g.attributes);
    PERFORM sagaz_tiering.place_locked(ids, true);
    DELETE FROM sagaz_tiering.sagas g
     WHERE g.saga_id = ANY(ids)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.ends_in_tables(ids) e WHERE e.saga_id = g.saga_id);
END $$;

CREATE OR REPLACE FUNCTION sagaz_tiering.note_archived(ended_at timestamptz[], kept_us bigint[], end_step integer[],
                                                       saga_id uuid[], end_id uuid[], status text[], attributes text[])
RETURNS void LANGUAGE sql AS $$
    SELECT sagaz_tiering.add_names_of($4);
    INSERT INTO sagaz_tiering.sagas AS g (ended_at, kept_us, end_step, saga_id, end_id, status, attributes)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)
               AS v (ended_at, kept_us, end_step, saga_id, end_id, status, attributes)
     ORDER BY v.saga_id
    ON CONFLICT (saga_id) DO UPDATE
       SET (ended_at, end_step, end_id, status, attributes) = (
               SELECT n.* FROM (VALUES (excluded.ended_at, excluded.end_step, excluded.end_id, excluded.status,
                                        CASE WHEN excluded.end_id = g.end_id THEN coalesce(excluded.attributes, g.attributes)
                                             ELSE excluded.attributes END),
                                       (g.ended_at, g.end_step, g.end_id, g.status, g.attributes)) AS n (a, b, c, d, e)
                ORDER BY a DESC, b DESC, c DESC LIMIT 1),
           kept_us = greatest(g.kept_us, excluded.kept_us),
           changed = g.changed OR (excluded.ended_at, excluded.end_step, excluded.end_id) <> (g.ended_at, g.end_step, g.end_id)
                     OR coalesce(g.kept_us <> excluded.kept_us, false);
    SELECT sagaz_tiering.place_locked($4, false)
$$;

CREATE OR REPLACE FUNCTION sagaz_tiering.follow_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    expiring boolean := coalesce(current_setting('sagaz_tiering.expiring', true) = 'on', false);
    touched uuid[];
    ended uuid[];
    losing uuid[];
    lost text[];
BEGIN
    IF TG_TABLE_NAME = 'snapshots' THEN
        touched := ARRAY(SELECT DISTINCT f.saga_id FROM gone o
                           JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no);
    ELSE  -- what only moves into a pack, and takes all of its tokens along, waits for nobody
        touched := ARRAY(SELECT o.saga_id FROM gone o
                          WHERE expiring
                             OR NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = o.snapshot_id)
                         UNION
                         SELECT v.saga_id
                           FROM (SELECT o.saga_id, t.token FROM gone o, sagaz_tiering.tokens_of(o.attributes) AS t (token)
                                 EXCEPT SELECT t.saga_id, t.token
                                          FROM sagaz_tiering.tokens_in_tables(ARRAY(
                                              SELECT DISTINCT o.saga_id FROM gone o WHERE o.attributes IS NOT NULL)) t) AS v);
    END IF;
    -- Whoever saves or removes something of them now waits for us, or was before us and is seen by what follows.
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(touched) ORDER BY g.saga_id FOR UPDATE;
    IF TG_TABLE_NAME = 'snapshots' THEN
        SELECT array_agg(v.saga_id), array_agg(v.token) INTO losing, lost
          FROM (SELECT f.saga_id, t.token
                  FROM gone o
                  JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no,
                       sagaz_tiering.tokens_of_one(f.attributes, o.snapshot_id) AS t (token)
                 WHERE f.attributes IS NOT NULL
                EXCEPT SELECT t.saga_id, t.token FROM sagaz_tiering.tokens_in_tables(touched) t) AS v;
        UPDATE sagaz_tiering.frames f SET attributes = NULL
          FROM (SELECT DISTINCT o.pack_id, o.frame_no FROM gone o) AS o
         WHERE f.pack_id = o.pack_id AND f.frame_no = o.frame_no AND f.attributes IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no);
    ELSIF EXISTS (SELECT 1 FROM gone o WHERE o.attributes IS NOT NULL) THEN
        SELECT array_agg(v.saga_id), array_agg(v.token) INTO losing, lost
          FROM (SELECT o.saga_id, t.token FROM gone o, sagaz_tiering.tokens_of(o.attributes) AS t (token)
                 WHERE o.saga_id = ANY(touched)
                EXCEPT SELECT t.saga_id, t.token FROM sagaz_tiering.tokens_in_tables(touched) t) AS v;
    END IF;
    IF losing <> '{}' THEN
        PERFORM sagaz_tiering.drop_tokens(losing, lost);
    END IF;
    IF NOT expiring THEN
        IF TG_TABLE_NAME = 'snapshots' THEN
            ended := ARRAY(SELECT DISTINCT g.saga_id FROM gone o
                             JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no
                             JOIN sagaz_tiering.sagas g ON g.saga_id = f.saga_id
                              AND (g.end_id = o.snapshot_id OR g.place = sagaz_tiering.place_of(o.created_at, g.saga_id))
                            WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                                               WHERE d.snapshot_id = o.snapshot_id AND d.saga_id = g.saga_id)
                              AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h
                                               WHERE h.snapshot_id = o.snapshot_id AND h.saga_id = g.saga_id));
        ELSE
            ended := ARRAY(SELECT DISTINCT g.saga_id FROM gone o
                             JOIN sagaz_tiering.sagas g ON g.saga_id = o.saga_id
                              AND (g.end_id = o.snapshot_id OR g.place = sagaz_tiering.place_of(o.created_at, g.saga_id))
                            WHERE o.saga_id = ANY(touched)
                              AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = o.snapshot_id));
        END IF;
        IF ended <> '{}' THEN
            PERFORM sagaz_tiering.refresh_sagas(ended);
        END IF;
    END IF;
    IF expiring OR TG_TABLE_NAME = 'snapshots' THEN
        DELETE FROM sagaz_tiering.sagas g
         WHERE g.saga_id = ANY(touched)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.frames f
                             JOIN sagaz_tiering.snapshots s ON s.pack_id = f.pack_id AND s.frame_no = f.frame_no
                            WHERE f.saga_id = g.saga_id)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id = g.saga_id)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.saga_id = g.saga_id);
    END IF;
    RETURN NULL;
END $$;

-- What was placed by times that wrapped around.
SELECT sagaz_tiering.place_sagas(ARRAY(SELECT g.saga_id FROM sagaz_tiering.sagas g
                                        WHERE g.ended_at >= '2112-09-17' OR g.ended_at < '1827-04-18'), true);
