-- What `find` asks in one statement, within bounds; names that no saga has any more go.

-- Since when no saga has it. Whoever saves one of that name adds it anew, which ends that.
ALTER TABLE sagaz_tiering.saga_names ADD COLUMN unused_since timestamptz;
-- By the first characters, since a name may be too long for an index.
CREATE INDEX saga_names_begin ON sagaz_tiering.saga_names ((left(saga_name, 64)) COLLATE "C");

CREATE OR REPLACE FUNCTION sagaz_tiering.add_names(names text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sagaz_tiering.saga_names (digest, saga_name)
    SELECT DISTINCT sagaz_tiering.name_digest(v.saga_name), v.saga_name FROM unnest(names) AS v (saga_name)
     WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_names n
                        WHERE n.digest = sagaz_tiering.name_digest(v.saga_name) AND n.unused_since IS NULL)
     ORDER BY 1
    ON CONFLICT (digest) DO UPDATE SET unused_since = NULL;
END $$;

-- Plans are kept as they were made when tables were small, so none reads a whole table. Names are few beside rows.
CREATE OR REPLACE FUNCTION sagaz_tiering.note_saga_ends() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    not_filled uuid;
    number bigint;
    carry boolean;
    names text[];
    begun uuid[];
    these uuid[];
    ended bigint;
BEGIN
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
        SELECT DISTINCT ON (n.saga_id) n.created_at, n.step_index, n.saga_id, n.snapshot_id, n.status,
               sagaz_tiering.place_of(b.began_at, n.saga_id), m.name_id, n.step_name, n.attributes
          FROM saved n
          JOIN (SELECT s.saga_id, min(s.created_at) AS began_at FROM saved s GROUP BY s.saga_id) AS b
            ON b.saga_id = n.saga_id
          LEFT JOIN (SELECT u.saga_name, k.name_id FROM unnest(names) AS u (saga_name)
                       JOIN sagaz_tiering.saga_names k ON k.digest = sagaz_tiering.name_digest(u.saga_name)) AS m
            ON m.saga_name = n.saga_name
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
    IF carry THEN
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
    IF ended = number THEN
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

-- What there is of a saga, each snapshot once, expired ones included: the newest `singly` ones by themselves, of the others those
-- that rules see alike together, with the latest of their times. Of the attributes of those, the `wanted` tokens alone.
CREATE FUNCTION sagaz_tiering.present_of(saga uuid, singly integer, wanted text[])
RETURNS TABLE (snapshots bigint, of_saga text, of_step text, of_index integer, of_status text, made_at timestamptz,
               clock_at timestamptz, retention_until timestamptz, expires_at timestamptz, is_own_date_known boolean,
               in_redis boolean, storage_class text, dated_by text, policy text, of_attributes text, held boolean)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 AS $$
    WITH found AS (
        SELECT d.snapshot_id, d.saga_name, d.step_name, d.step_index, d.status, d.created_at, d.saved_at AS clock_at,
               d.retention_until, d.expires_at, true AS is_own_date_known, NOT d.spilled AS in_redis,
               NULL::text AS storage_class, NULL::text AS dated_by, NULL::text AS policy, d.attributes,
               NULL::text AS of_frame
          FROM sagaz_tiering.saga_snapshots d
         WHERE d.saga_id = $1
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h
                            WHERE h.snapshot_id = d.snapshot_id AND h.saved_at > d.saved_at)
        UNION ALL
        SELECT h.snapshot_id, h.saga_name, h.step_name, h.step_index, h.status, h.created_at, h.saved_at,
               nullif(h.retention_until, 'infinity'), h.expires_at, h.retention_until IS NOT NULL, true,
               NULL, NULL, NULL, h.attributes, NULL
          FROM sagaz_tiering.hot_saves h
         WHERE h.saga_id = $1
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                            WHERE d.snapshot_id = h.snapshot_id AND d.saved_at >= h.saved_at)
        UNION ALL
        SELECT s.snapshot_id, t.saga_name, t.step_name, t.step_index, t.status, s.created_at, p.max_clock_at,
               NULL, s.expires_at, false, false, p.storage_class, p.retention_revision, p.policy, NULL, f.attributes
          FROM sagaz_tiering.frames f
          JOIN sagaz_tiering.snapshots s ON s.pack_id = f.pack_id AND s.frame_no = f.frame_no
          JOIN sagaz_tiering.packs p ON p.pack_id = f.pack_id
          JOIN sagaz_tiering.steps t ON t.step_id = s.step_id
         WHERE f.saga_id = $1
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = s.snapshot_id)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = s.snapshot_id)),
    numbered AS MATERIALIZED (
        SELECT n.*, row_number() OVER (ORDER BY n.created_at DESC, n.step_index DESC, n.snapshot_id DESC) AS number
          FROM found n),
    rest AS (
        SELECT n.*, CASE WHEN $3 <> '{}' AND coalesce(n.attributes, n.of_frame) IS NOT NULL THEN (
                    SELECT string_agg(o.token, U&'\001F' ORDER BY o.token)
                      FROM (SELECT t.token FROM sagaz_tiering.tokens_of(n.attributes) AS t (token)
                            UNION SELECT t.token
                              FROM sagaz_tiering.tokens_of_one(n.of_frame, n.snapshot_id) AS t (token)) AS o
                     WHERE o.token = ANY($3)) END AS tokens
          FROM numbered n WHERE n.number > $2),
    present AS (
        SELECT 1::bigint AS snapshots, n.saga_name, n.step_name, n.step_index, n.status, n.created_at, n.clock_at,
               n.retention_until, n.expires_at, n.is_own_date_known, n.in_redis, n.storage_class, n.dated_by, n.policy,
               CASE WHEN n.of_frame IS NULL THEN n.attributes
                    ELSE (SELECT string_agg(o.token, U&'\001F')
                            FROM sagaz_tiering.tokens_of_one(n.of_frame, n.snapshot_id) AS o (token)) END AS tokens
          FROM numbered n WHERE n.number <= $2
        UNION ALL
        (SELECT count(*), r.saga_name, r.step_name, max(r.step_index), r.status, max(r.created_at), max(r.clock_at),
                max(r.retention_until), max(r.expires_at), r.is_own_date_known, r.in_redis, r.storage_class, r.dated_by,
                r.policy, r.tokens
           FROM rest r
          GROUP BY r.saga_name, r.step_name, r.status, r.is_own_date_known, r.in_redis, r.storage_class, r.dated_by,
                   r.policy, r.tokens, r.retention_until IS NULL, r.expires_at IS NULL
          ORDER BY count(*) DESC LIMIT 1000))
    SELECT p.snapshots, p.saga_name, p.step_name, p.step_index, p.status, p.created_at, p.clock_at, p.retention_until,
           p.expires_at, p.is_own_date_known, p.in_redis, p.storage_class, p.dated_by, p.policy, p.tokens,
           (SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
           AND sagaz_tiering.is_held($1, p.saga_name, p.step_name, p.status)
      FROM present p
$$;
