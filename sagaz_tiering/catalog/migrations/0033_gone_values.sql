-- What a snapshot can be found by goes from the catalog with its place in a pack, also where others in its frame stay.

-- Of the attributes of a frame, what the snapshots carry that have places in it.
CREATE FUNCTION sagaz_tiering.attributes_of_present(pack integer, frame integer, attributes text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT string_agg(v.part, U&'\001F' ORDER BY v.number)
      FROM (SELECT u.number,
                   CASE WHEN strpos(u.part, U&'\001E') = 0 THEN u.part
                        ELSE split_part(u.part, U&'\001E', 1) || U&'\001E' || (
                             SELECT string_agg(b.beginning, ',' ORDER BY b.number)
                               FROM unnest(string_to_array(split_part(u.part, U&'\001E', 2), ','))
                                    WITH ORDINALITY AS b (beginning, number)
                              WHERE EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s
                                             WHERE s.pack_id = $1 AND s.frame_no = $2
                                               AND starts_with(encode(uuid_send(s.snapshot_id), 'hex'), b.beginning))) END
              FROM unnest(string_to_array($3, U&'\001F')) WITH ORDINALITY AS u (part, number)
             WHERE EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.pack_id = $1 AND s.frame_no = $2)
           ) AS v (number, part)
$$;

-- After `deletions_end_sagas`, which looks at what the frames say of what is gone.
CREATE FUNCTION sagaz_tiering.trim_frames() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    UPDATE sagaz_tiering.frames f
       SET attributes = sagaz_tiering.attributes_of_present(f.pack_id, f.frame_no, f.attributes)
      FROM (SELECT DISTINCT o.pack_id, o.frame_no FROM gone o) AS o
     WHERE f.pack_id = o.pack_id AND f.frame_no = o.frame_no AND f.attributes IS NOT NULL
       AND f.attributes IS DISTINCT FROM sagaz_tiering.attributes_of_present(f.pack_id, f.frame_no, f.attributes);
    RETURN NULL;
END $$;
CREATE TRIGGER deletions_trim_frames AFTER DELETE ON sagaz_tiering.snapshots REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.trim_frames();

-- What the snapshots of these frames of a pack carry, by frame number in parallel arrays; `find` follows. What was deleted since somebody
-- looked at them carries nothing: whoever deletes one changes the row of its pack too.
CREATE OR REPLACE FUNCTION sagaz_tiering.set_frame_attributes(pack integer, numbers integer[], texts text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[];
    losing uuid[];
    lost text[];
BEGIN
    PERFORM 1 FROM sagaz_tiering.packs p WHERE p.pack_id = pack FOR NO KEY UPDATE;
    ids := ARRAY(SELECT DISTINCT f.saga_id FROM sagaz_tiering.frames f WHERE f.pack_id = pack AND f.frame_no = ANY(numbers)
                  ORDER BY f.saga_id);
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
    SELECT array_agg(v.saga_id), array_agg(v.token) INTO losing, lost
      FROM (SELECT DISTINCT f.saga_id, t.token
              FROM sagaz_tiering.frames f, sagaz_tiering.tokens_of(f.attributes) AS p (part),
                   split_part(p.part, U&'\001E', 1) AS t (token)
             WHERE f.pack_id = pack AND f.frame_no = ANY(numbers) AND f.attributes IS NOT NULL) AS v;
    UPDATE sagaz_tiering.frames f SET attributes = sagaz_tiering.attributes_of_present(f.pack_id, f.frame_no, v.attributes)
      FROM unnest(numbers, texts) AS v (frame_no, attributes)
     WHERE f.pack_id = pack AND f.frame_no = v.frame_no;
    IF losing <> '{}' THEN
        PERFORM sagaz_tiering.drop_tokens(losing, lost);
    END IF;
    PERFORM sagaz_tiering.add_tokens(ids);
    -- Rules look at the attributes of a saga's end.
    PERFORM sagaz_tiering.refresh_sagas(ARRAY(
        SELECT g.saga_id
          FROM sagaz_tiering.sagas g JOIN sagaz_tiering.snapshots s ON s.snapshot_id = g.end_id
         WHERE g.saga_id = ANY(ids) AND s.pack_id = pack AND s.frame_no = ANY(numbers) ORDER BY g.saga_id));
END $$;
