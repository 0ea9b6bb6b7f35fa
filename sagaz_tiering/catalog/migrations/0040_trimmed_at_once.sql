-- What the snapshots left in a frame carry is looked up in one go: not all of them for each token and each id of each.

-- Of the attributes of a frame, what the snapshots carry that have places in it.
CREATE OR REPLACE FUNCTION sagaz_tiering.attributes_of_present(pack integer, frame integer, attributes text) RETURNS text
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    present text[] := ARRAY(SELECT encode(uuid_send(s.snapshot_id), 'hex')
                              FROM sagaz_tiering.snapshots s WHERE s.pack_id = pack AND s.frame_no = frame);
BEGIN
    IF present = '{}' THEN
        RETURN NULL;
    ELSIF strpos(attributes, U&'\001E') = 0 THEN
        RETURN nullif(attributes, '');
    ELSIF cardinality(present) < 20 THEN
        RETURN (
            SELECT string_agg(v.part, U&'\001F' ORDER BY v.number)
              FROM (SELECT u.number,
                           CASE WHEN strpos(u.part, U&'\001E') = 0 THEN u.part
                                ELSE split_part(u.part, U&'\001E', 1) || U&'\001E' || (
                                     SELECT string_agg(b.beginning, ',' ORDER BY b.number)
                                       FROM unnest(string_to_array(split_part(u.part, U&'\001E', 2), ','))
                                            WITH ORDINALITY AS b (beginning, number)
                                      WHERE EXISTS (SELECT 1 FROM unnest(present) AS i (id) WHERE starts_with(i.id, b.beginning)))
                           END
                      FROM unnest(string_to_array(attributes, U&'\001F')) WITH ORDINALITY AS u (part, number)
                   ) AS v (number, part));
    END IF;
    RETURN (
        WITH parts AS MATERIALIZED (
            SELECT u.number, split_part(u.part, U&'\001E', 1) AS token, strpos(u.part, U&'\001E') > 0 AS of_some,
                   string_to_array(split_part(u.part, U&'\001E', 2), ',') AS beginnings
              FROM unnest(string_to_array(attributes, U&'\001F')) WITH ORDINALITY AS u (part, number)),
        beginnings AS MATERIALIZED (
            SELECT p.number AS part, p.token, b.number, b.beginning
              FROM parts p, unnest(p.beginnings) WITH ORDINALITY AS b (beginning, number) WHERE p.of_some),
        both_of_them AS (  -- sorted, not joined: estimates do not matter
            SELECT v.*, bool_or(v.part IS NULL) OVER (PARTITION BY v.beginning) AS is_there
              FROM (SELECT b.part, b.token, b.number, b.beginning FROM beginnings b
                    UNION ALL
                    SELECT NULL, NULL, NULL, left(i.id, d.digits)
                      FROM (SELECT DISTINCT length(b.beginning) FROM beginnings b) AS d (digits),
                           unnest(present) AS i (id)) AS v)
        SELECT string_agg(k.text, U&'\001F' ORDER BY k.number)
          FROM (SELECT p.number, p.token AS text FROM parts p WHERE NOT p.of_some
                UNION ALL
                SELECT b.part, min(b.token) || U&'\001E' || string_agg(b.beginning, ',' ORDER BY b.number)
                  FROM both_of_them b WHERE b.is_there AND b.part IS NOT NULL GROUP BY b.part) AS k);
END $$;

-- After `deletions_end_sagas`, which looks at what the frames say of what is gone. Whoever deletes has the rows of the packs.
CREATE OR REPLACE FUNCTION sagaz_tiering.trim_frames() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    pack integer;
    frame integer;
    before text;
    present text;
BEGIN
    FOR pack, frame, before IN
        SELECT d.pack_id, d.frame_no,
               (SELECT f.attributes FROM sagaz_tiering.frames f WHERE f.pack_id = d.pack_id AND f.frame_no = d.frame_no)
          FROM (SELECT DISTINCT o.pack_id, o.frame_no FROM gone o) AS d ORDER BY d.pack_id, d.frame_no
    LOOP
        CONTINUE WHEN before IS NULL;
        present := sagaz_tiering.attributes_of_present(pack, frame, before);
        IF present IS DISTINCT FROM before THEN
            UPDATE sagaz_tiering.frames f SET attributes = present WHERE f.pack_id = pack AND f.frame_no = frame;
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
