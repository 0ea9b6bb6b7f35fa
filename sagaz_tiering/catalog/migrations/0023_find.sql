-- What `find` asks: when each saga began, its name and last step, and by which attributes it is found. Kept by triggers with
-- every save and everything that goes, so that applications of an earlier version do so as well.

-- `name=value` tokens, joined by U+001F (NULL: none). Of a frame: of its snapshots; what not all of them have is followed by
-- U+001E and the beginnings of the ids, in hexadecimal and joined by commas, of those that do.
ALTER TABLE sagaz_tiering.saga_snapshots ADD COLUMN attributes text;
ALTER TABLE sagaz_tiering.hot_saves ADD COLUMN attributes text,
                                    ADD COLUMN retention_until timestamptz;  -- infinity: none; NULL: not told
ALTER TABLE sagaz_tiering.frames ADD COLUMN attributes text;

CREATE TABLE sagaz_tiering.saga_names (
    name_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,  -- sha256 of the name, which may be too long for an index
    saga_name  text NOT NULL
);

-- `place`: created_at of its first snapshot (microseconds since 1970), then the last eleven bits of its id: sagas are told in
-- this order, which a saga that goes on does not leave. Its name, last step and attributes are those of its end.
ALTER TABLE sagaz_tiering.sagas ADD COLUMN place bigint, ADD COLUMN name_id integer, ADD COLUMN step_name text,
                                ADD COLUMN attributes text;
CREATE INDEX sagas_place ON sagaz_tiering.sagas (place) WHERE place IS NOT NULL;
CREATE INDEX sagas_name ON sagaz_tiering.sagas (name_id, place) WHERE place IS NOT NULL;

-- Which sagas have which tokens: all that any row of theirs has, up to 16 values of one attribute.
CREATE TABLE sagaz_tiering.saga_attributes (
    key      bigint NOT NULL,  -- of the token, see attribute_key
    place    bigint NOT NULL,  -- of the saga
    saga_id  uuid NOT NULL
);
CREATE INDEX saga_attributes_key ON sagaz_tiering.saga_attributes (key, place);

-- Sagas up to this id can be found; NULL: all can.
ALTER TABLE sagaz_tiering.sagas_filled ADD COLUMN found_up_to uuid;
UPDATE sagaz_tiering.sagas_filled SET found_up_to = '00000000-0000-0000-0000-000000000000'
 WHERE up_to IS NOT NULL OR EXISTS (SELECT 1 FROM sagaz_tiering.sagas);

CREATE FUNCTION sagaz_tiering.name_digest(saga_name text) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to($1, 'UTF8'))
$$;

CREATE FUNCTION sagaz_tiering.attribute_key(token text) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ('x' || encode(substr(sha256(convert_to($1, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint
$$;

CREATE FUNCTION sagaz_tiering.place_of(began_at timestamptz, saga_id uuid) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT ((extract(epoch FROM $1) * 1000000)::bigint << 11)
           | ((get_byte(uuid_send($2), 14) << 8 | get_byte(uuid_send($2), 15)) & 2047)
$$;

CREATE FUNCTION sagaz_tiering.tokens_of(attributes text) RETURNS SETOF text LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 2 AS $$
    SELECT unnest(string_to_array($1, U&'\001F'))
$$;

-- Those that a frame says one of its snapshots has.
CREATE FUNCTION sagaz_tiering.tokens_of_one(attributes text, snapshot_id uuid) RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 2 AS $$
    SELECT split_part(p, U&'\001E', 1)
      FROM unnest(string_to_array($1, U&'\001F')) AS u (p)
     WHERE strpos(p, U&'\001E') = 0
        OR EXISTS (SELECT 1 FROM unnest(string_to_array(split_part(p, U&'\001E', 2), ',')) AS i (beginning)
                    WHERE starts_with(encode(uuid_send($2), 'hex'), beginning))
$$;

-- What there is of these sagas says where each ends, and what was promised of it; with the attributes of its end.
DROP FUNCTION sagaz_tiering.ends_in_tables(uuid[]);
CREATE FUNCTION sagaz_tiering.ends_in_tables(ids uuid[])
RETURNS TABLE (saga_id uuid, ended_at timestamptz, end_step integer, end_id uuid, status text, kept_us bigint, attributes text)
LANGUAGE sql STABLE AS $$
    WITH archived AS (
        SELECT f.saga_id, s.created_at, t.step_index, s.snapshot_id, t.status, s.expires_at, f.attributes
          FROM sagaz_tiering.frames f
          JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
          JOIN sagaz_tiering.steps t USING (step_id)
         WHERE f.saga_id = ANY(ids)),
    found AS (
        SELECT d.saga_id, d.created_at, d.step_index, d.snapshot_id, d.status, d.attributes
          FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id = ANY(ids)
        UNION ALL
        SELECT h.saga_id, h.created_at, h.step_index, h.snapshot_id, h.status, h.attributes
          FROM sagaz_tiering.hot_saves h
         WHERE h.saga_id = ANY(ids)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                            WHERE d.snapshot_id = h.snapshot_id AND d.saved_at > h.saved_at)
        UNION ALL
        SELECT a.saga_id, a.created_at, a.step_index, a.snapshot_id, a.status,
               (SELECT string_agg(t.token, U&'\001F') FROM sagaz_tiering.tokens_of_one(a.attributes, a.snapshot_id) AS t (token))
          FROM archived a
         WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = a.snapshot_id)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = a.snapshot_id)),
    newest AS (
        SELECT DISTINCT ON (n.saga_id) n.* FROM found n
         ORDER BY n.saga_id, n.created_at DESC, n.step_index DESC, n.snapshot_id DESC),
    promised AS (
        SELECT a.saga_id, max(coalesce((extract(epoch FROM a.expires_at) * 1000000)::bigint, 9223372036854775807)) AS kept_us
          FROM archived a GROUP BY a.saga_id)
    SELECT n.saga_id, n.created_at, n.step_index, n.snapshot_id, n.status, p.kept_us, n.attributes
      FROM newest n LEFT JOIN promised p ON p.saga_id = n.saga_id
     ORDER BY n.saga_id
$$;

-- The same, as the table has it where it has them all.
DROP FUNCTION sagaz_tiering.saga_ends(uuid[]);
CREATE FUNCTION sagaz_tiering.saga_ends(ids uuid[])
RETURNS TABLE (saga_id uuid, ended_at timestamptz, end_step integer, end_id uuid, status text, kept_us bigint, attributes text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    filled uuid := (SELECT coalesce(up_to, 'ffffffff-ffff-ffff-ffff-ffffffffffff') FROM sagaz_tiering.sagas_filled);
    rest uuid[] := ARRAY(SELECT id FROM unnest(ids) AS u (id) WHERE id > filled);
BEGIN
    RETURN QUERY SELECT g.saga_id, g.ended_at, g.end_step, g.end_id, g.status, g.kept_us, g.attributes
                   FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) AND g.saga_id <= filled;
    IF rest <> '{}' THEN
        RETURN QUERY SELECT * FROM sagaz_tiering.ends_in_tables(rest);
    END IF;
END $$;

-- The tokens of these sagas in any row, each with the time of the first snapshot that has it.
CREATE FUNCTION sagaz_tiering.tokens_in_tables(ids uuid[]) RETURNS TABLE (saga_id uuid, token text, first_at timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT a.saga_id, a.token, min(a.created_at)
      FROM (SELECT d.saga_id, t.token, d.created_at
              FROM sagaz_tiering.saga_snapshots d, sagaz_tiering.tokens_of(d.attributes) AS t (token)
             WHERE d.saga_id = ANY(ids)
            UNION ALL
            SELECT h.saga_id, t.token, h.created_at
              FROM sagaz_tiering.hot_saves h, sagaz_tiering.tokens_of(h.attributes) AS t (token)
             WHERE h.saga_id = ANY(ids)
            UNION ALL
            SELECT f.saga_id, t.token, s.created_at
              FROM sagaz_tiering.frames f
              JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no),
                   sagaz_tiering.tokens_of_one(f.attributes, s.snapshot_id) AS t (token)
             WHERE f.saga_id = ANY(ids) AND f.attributes IS NOT NULL) AS a
     GROUP BY a.saga_id, a.token
$$;

-- What there is of these sagas says when each began, and its name and step at its end.
CREATE FUNCTION sagaz_tiering.names_in_tables(ids uuid[])
RETURNS TABLE (saga_id uuid, began_at timestamptz, saga_name text, step_name text) LANGUAGE sql STABLE AS $$
    WITH found AS (
        SELECT d.saga_id, d.created_at, d.step_index, d.snapshot_id, d.saga_name, d.step_name
          FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id = ANY(ids)
        UNION ALL
        SELECT h.saga_id, h.created_at, h.step_index, h.snapshot_id, h.saga_name, h.step_name
          FROM sagaz_tiering.hot_saves h
         WHERE h.saga_id = ANY(ids)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                            WHERE d.snapshot_id = h.snapshot_id AND d.saved_at > h.saved_at)
        UNION ALL
        SELECT f.saga_id, s.created_at, t.step_index, s.snapshot_id, t.saga_name, t.step_name
          FROM sagaz_tiering.frames f
          JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
          JOIN sagaz_tiering.steps t USING (step_id)
         WHERE f.saga_id = ANY(ids)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = s.snapshot_id)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = s.snapshot_id))
    SELECT DISTINCT ON (n.saga_id) n.saga_id, min(n.created_at) OVER (PARTITION BY n.saga_id), n.saga_name, n.step_name
      FROM found n
     ORDER BY n.saga_id, n.created_at DESC, n.step_index DESC, n.snapshot_id DESC
$$;

-- Before any row of `sagas` is locked, so that whoever brings a new name waits for nobody who waits for it.
CREATE FUNCTION sagaz_tiering.add_names(names text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sagaz_tiering.saga_names (digest, saga_name)
    SELECT DISTINCT sagaz_tiering.name_digest(v.saga_name), v.saga_name FROM unnest(names) AS v (saga_name)
     WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_names n WHERE n.digest = sagaz_tiering.name_digest(v.saga_name))
     ORDER BY 1
    ON CONFLICT (digest) DO NOTHING;
END $$;

-- The tokens that these sagas have by now find them. Their rows of `sagas` are locked already.
CREATE FUNCTION sagaz_tiering.add_tokens(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sagaz_tiering.saga_attributes (key, place, saga_id)
    SELECT r.key, r.place, r.saga_id
      FROM (SELECT t.saga_id, g.place, sagaz_tiering.attribute_key(t.token) AS key, a.key IS NOT NULL AS there,
                   row_number() OVER (PARTITION BY t.saga_id, split_part(t.token, '=', 1)
                                      ORDER BY a.key IS NULL, t.first_at, t.token) AS number
              FROM sagaz_tiering.tokens_in_tables(ids) t
              JOIN sagaz_tiering.sagas g ON g.saga_id = t.saga_id
              LEFT JOIN sagaz_tiering.saga_attributes a
                ON a.key = sagaz_tiering.attribute_key(t.token) AND a.place = g.place AND a.saga_id = t.saga_id
             WHERE g.place IS NOT NULL) AS r
     WHERE r.number <= 16 AND NOT r.there;
END $$;

-- These tokens, in parallel arrays, went with rows of these sagas: they find them no more where no other row has them.
CREATE FUNCTION sagaz_tiering.drop_tokens(ids uuid[], tokens text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    others uuid[] := ARRAY(SELECT DISTINCT u.id FROM unnest(ids) AS u (id));
BEGIN
    DELETE FROM sagaz_tiering.saga_attributes a
     USING (SELECT u.saga_id, u.token FROM unnest(ids, tokens) AS u (saga_id, token)
            EXCEPT SELECT t.saga_id, t.token FROM sagaz_tiering.tokens_in_tables(others) t) AS v,
           sagaz_tiering.sagas g
     WHERE g.saga_id = v.saga_id AND a.key = sagaz_tiering.attribute_key(v.token) AND a.place = g.place
       AND a.saga_id = v.saga_id;
    IF FOUND THEN  -- one that was beyond the sixteenth may follow
        PERFORM sagaz_tiering.add_tokens(others);
    END IF;
END $$;

-- Look at what there is of these sagas. `went`: something went for good, and one may begin later than it did; else it is the
-- earlier of what is known and what is there, since what expired was its beginning still.
CREATE FUNCTION sagaz_tiering.place_sagas(ids uuid[], went boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moved uuid[];
BEGIN
    PERFORM sagaz_tiering.add_names(ARRAY(SELECT DISTINCT n.saga_name FROM sagaz_tiering.names_in_tables(ids) n));
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
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

CREATE OR REPLACE FUNCTION sagaz_tiering.refresh_sagas(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Whoever saves one of them now waits for us and adds to it, or was before us and is seen.
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
    INSERT INTO sagaz_tiering.sagas AS g (ended_at, end_step, saga_id, end_id, status, attributes)
    SELECT e.ended_at, e.end_step, e.saga_id, e.end_id, e.status, e.attributes FROM sagaz_tiering.ends_in_tables(ids) e
    ON CONFLICT (saga_id) DO UPDATE
       SET ended_at = excluded.ended_at, end_step = excluded.end_step, end_id = excluded.end_id,
           status = excluded.status, attributes = excluded.attributes, changed = g.changed OR g.kept_us IS NOT NULL
     WHERE (excluded.ended_at, excluded.end_step, excluded.end_id, excluded.status, excluded.attributes)
           IS DISTINCT FROM (g.ended_at, g.end_step, g.end_id, g.status, g.attributes);
    PERFORM sagaz_tiering.place_sagas(ids, true);
    DELETE FROM sagaz_tiering.sagas g
     WHERE g.saga_id = ANY(ids)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.ends_in_tables(ids) e WHERE e.saga_id = g.saga_id);
END $$;

-- Plans are kept as they were made when tables were small, so none reads a whole table.
CREATE OR REPLACE FUNCTION sagaz_tiering.note_saga_ends() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    not_filled uuid := (SELECT up_to FROM sagaz_tiering.sagas_filled);
    these uuid[];
    ended bigint;
BEGIN
    IF EXISTS (SELECT 1 FROM saved n WHERE (SELECT 1 FROM sagaz_tiering.saga_names m
                                             WHERE m.digest = sagaz_tiering.name_digest(n.saga_name)) IS NULL) THEN
        PERFORM sagaz_tiering.add_names(ARRAY(SELECT n.saga_name FROM saved n));
    END IF;
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
     WHERE (excluded.ended_at, excluded.end_step, excluded.end_id) > (g.ended_at, g.end_step, g.end_id);
    GET DIAGNOSTICS ended = ROW_COUNT;
    IF not_filled IS NOT NULL THEN  -- there may be more of them than `sagas` knew
        PERFORM sagaz_tiering.place_sagas(ARRAY(SELECT DISTINCT n.saga_id FROM saved n WHERE n.saga_id > not_filled), false);
    END IF;
    IF EXISTS (SELECT 1 FROM saved n WHERE n.attributes IS NOT NULL) THEN
        WITH tokens AS MATERIALIZED (
            SELECT sagaz_tiering.attribute_key(t.token) AS key, n.saga_id, n.created_at,
                   (SELECT g.place FROM sagaz_tiering.sagas g WHERE g.saga_id = n.saga_id) AS place
              FROM saved n, sagaz_tiering.tokens_of(n.attributes) AS t (token)),
        missing AS (
            SELECT k.key, k.place, k.saga_id, k.place = sagaz_tiering.place_of(k.created_at, k.saga_id) AS of_first
              FROM tokens k
             WHERE k.place IS NOT NULL
               AND (SELECT 1 FROM sagaz_tiering.saga_attributes a
                     WHERE a.key = k.key AND a.place = k.place AND a.saga_id = k.saga_id LIMIT 1) IS NULL),
        added AS (
            INSERT INTO sagaz_tiering.saga_attributes (key, place, saga_id)
            SELECT DISTINCT m.key, m.place, m.saga_id FROM missing m WHERE m.of_first)
        SELECT array_agg(DISTINCT m.saga_id) INTO these FROM missing m WHERE NOT m.of_first;
        IF these <> '{}' THEN  -- of a saga that has others: no more than it may have
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

CREATE OR REPLACE FUNCTION sagaz_tiering.refresh_saved_anew() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[] := ARRAY(SELECT DISTINCT id FROM unnest(ARRAY[OLD.saga_id, NEW.saga_id]) AS u (id) ORDER BY id);
    tokens text[] := ARRAY(SELECT t.token FROM sagaz_tiering.tokens_of(OLD.attributes) AS t (token));
BEGIN
    IF tokens <> '{}' AND (OLD.saga_id, OLD.attributes) IS DISTINCT FROM (NEW.saga_id, NEW.attributes) THEN
        PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
        PERFORM sagaz_tiering.drop_tokens(array_fill(OLD.saga_id, ARRAY[cardinality(tokens)]), tokens);
    END IF;
    PERFORM sagaz_tiering.refresh_sagas(ids);
    RETURN NULL;
END $$;
DROP TRIGGER saved_anew_ends_sagas ON sagaz_tiering.saga_snapshots;
CREATE TRIGGER saved_anew_ends_sagas
    AFTER UPDATE OF saga_id, created_at, step_index, status, saga_name, step_name, attributes ON sagaz_tiering.saga_snapshots
    FOR EACH ROW
    WHEN ((OLD.saga_id, OLD.created_at, OLD.step_index, OLD.status, OLD.saga_name, OLD.step_name, OLD.attributes)
          IS DISTINCT FROM
          (NEW.saga_id, NEW.created_at, NEW.step_index, NEW.status, NEW.saga_name, NEW.step_name, NEW.attributes))
    EXECUTE FUNCTION sagaz_tiering.refresh_saved_anew();
DROP TRIGGER saved_anew_ends_sagas ON sagaz_tiering.hot_saves;
CREATE TRIGGER saved_anew_ends_sagas
    AFTER UPDATE OF saga_id, created_at, step_index, status, saga_name, step_name, attributes ON sagaz_tiering.hot_saves
    FOR EACH ROW
    WHEN ((OLD.saga_id, OLD.created_at, OLD.step_index, OLD.status, OLD.saga_name, OLD.step_name, OLD.attributes)
          IS DISTINCT FROM
          (NEW.saga_id, NEW.created_at, NEW.step_index, NEW.status, NEW.saga_name, NEW.step_name, NEW.attributes))
    EXECUTE FUNCTION sagaz_tiering.refresh_saved_anew();

CREATE FUNCTION sagaz_tiering.note_archived(ended_at timestamptz[], kept_us bigint[], end_step integer[], saga_id uuid[],
                                            end_id uuid[], status text[], attributes text[])
RETURNS void LANGUAGE sql AS $$
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
    SELECT sagaz_tiering.place_sagas($4, false)
$$;

-- As applications of an earlier version call it.
CREATE OR REPLACE FUNCTION sagaz_tiering.note_archived(ended_at timestamptz[], kept_us bigint[], end_step integer[],
                                                       saga_id uuid[], end_id uuid[], status text[])
RETURNS void LANGUAGE sql AS $$
    SELECT sagaz_tiering.note_archived($1, $2, $3, $4, $5, $6, ARRAY[]::text[])
$$;

CREATE OR REPLACE FUNCTION sagaz_tiering.fill_sagas(most integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    so_far uuid;
    ids uuid[];
BEGIN
    SELECT up_to INTO so_far FROM sagaz_tiering.sagas_filled FOR UPDATE;
    IF so_far IS NULL THEN
        RETURN true;
    END IF;
    ids := ARRAY(SELECT f.saga_id FROM (
        (SELECT DISTINCT d.saga_id FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id > so_far ORDER BY 1 LIMIT most)
        UNION
        (SELECT DISTINCT f.saga_id FROM sagaz_tiering.frames f WHERE f.saga_id > so_far ORDER BY 1 LIMIT most)
        UNION
        (SELECT DISTINCT h.saga_id FROM sagaz_tiering.hot_saves h WHERE h.saga_id > so_far ORDER BY 1 LIMIT most)
    ) AS f (saga_id) ORDER BY 1 LIMIT most);
    PERFORM sagaz_tiering.note_archived(array_agg(e.ended_at), array_agg(e.kept_us), array_agg(e.end_step),
                                        array_agg(e.saga_id), array_agg(e.end_id), array_agg(e.status),
                                        array_agg(e.attributes))
       FROM sagaz_tiering.ends_in_tables(ids) e;
    UPDATE sagaz_tiering.sagas_filled SET up_to = ids[array_length(ids, 1)];
    RETURN ids = '{}';
END $$;

-- The next `most` sagas can be found; whether all can.
CREATE FUNCTION sagaz_tiering.fill_found(most integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    so_far uuid;
    ids uuid[];
BEGIN
    SELECT found_up_to INTO so_far FROM sagaz_tiering.sagas_filled WHERE up_to IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    ELSIF so_far IS NULL THEN
        RETURN true;
    END IF;
    ids := ARRAY(SELECT g.saga_id FROM sagaz_tiering.sagas g WHERE g.saga_id > so_far ORDER BY g.saga_id LIMIT most);
    PERFORM sagaz_tiering.place_sagas(ids, false);
    UPDATE sagaz_tiering.sagas_filled SET found_up_to = ids[array_length(ids, 1)];
    RETURN ids = '{}';
END $$;

CREATE OR REPLACE FUNCTION sagaz_tiering.follow_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    expiring boolean := current_setting('sagaz_tiering.expiring', true) = 'on';
    touched uuid[];
    ended uuid[];
    losing uuid[];
    lost text[];
BEGIN
    IF TG_TABLE_NAME = 'snapshots' THEN
        touched := ARRAY(SELECT DISTINCT f.saga_id FROM gone o
                           JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no);
        PERFORM 1 FROM sagaz_tiering.sagas g
          WHERE g.saga_id IN (SELECT f.saga_id FROM gone o
                                JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no
                               WHERE f.attributes IS NOT NULL)
          ORDER BY g.saga_id FOR UPDATE;
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
    ELSE
        -- Two that remove the last ones with a token see each other; what only moves waits for nobody.
        PERFORM 1 FROM sagaz_tiering.sagas g
          WHERE g.saga_id IN (SELECT o.saga_id FROM gone o
                               WHERE o.attributes IS NOT NULL
                                 AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = o.snapshot_id))
          ORDER BY g.saga_id FOR UPDATE;
        SELECT array_agg(v.saga_id), array_agg(v.token) INTO losing, lost
          FROM (SELECT o.saga_id, t.token FROM gone o, sagaz_tiering.tokens_of(o.attributes) AS t (token)
                EXCEPT SELECT t.saga_id, t.token
                         FROM sagaz_tiering.tokens_in_tables(ARRAY(SELECT DISTINCT o.saga_id FROM gone o
                                                                    WHERE o.attributes IS NOT NULL)) t) AS v;
        IF expiring THEN
            touched := ARRAY(SELECT DISTINCT o.saga_id FROM gone o);
        END IF;
    END IF;
    IF expiring THEN
        ended := '{}';
    ELSIF TG_TABLE_NAME = 'snapshots' THEN
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
                        WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = o.snapshot_id));
    END IF;
    IF losing <> '{}' THEN
        PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(losing || touched || ended) ORDER BY g.saga_id FOR UPDATE;
        PERFORM sagaz_tiering.drop_tokens(losing, lost);
    END IF;
    IF ended <> '{}' THEN
        PERFORM sagaz_tiering.refresh_sagas(ended);
    END IF;
    DELETE FROM sagaz_tiering.sagas g
     WHERE g.saga_id = ANY(touched)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.frames f
                         JOIN sagaz_tiering.snapshots s ON s.pack_id = f.pack_id AND s.frame_no = f.frame_no
                        WHERE f.saga_id = g.saga_id)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id = g.saga_id)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.saga_id = g.saga_id);
    RETURN NULL;
END $$;

-- No table keeps an attribute of what was forgotten: packs that are being replaced have frames still.
CREATE FUNCTION sagaz_tiering.forget_attributes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sagaz_tiering.frames f SET attributes = NULL
     WHERE f.saga_id = NEW.saga_id AND f.attributes IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.pack_id = f.pack_id AND s.frame_no = f.frame_no);
    RETURN NULL;
END $$;
CREATE TRIGGER erasures_forget_attributes AFTER INSERT ON sagaz_tiering.erasures
    FOR EACH ROW EXECUTE FUNCTION sagaz_tiering.forget_attributes();
