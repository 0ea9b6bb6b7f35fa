-- By which definitions of attributes what is in a pack is known to be complete (NULL: nobody looked), and the sha256 of
-- footers/<pack id>.attributes, which tells them where the footer of the pack itself does not (NULL: it does).
ALTER TABLE sagaz_tiering.packs ADD COLUMN attributes_revision text, ADD COLUMN attributes_digest bytea;

-- How far `reindex` came by some definitions. What is saved after it began has its attributes.
CREATE TABLE sagaz_tiering.reindexing (
    revision       text PRIMARY KEY,
    began_at       timestamptz NOT NULL,
    durable_after  uuid,                  -- durable rows up to this id are done (NULL: all are)
    hot_done       boolean NOT NULL DEFAULT false,
    done_at        timestamptz            -- everything is, but for archived packs that could not be read
);

-- What the snapshots of these frames of a pack carry, by frame number in parallel arrays; `find` follows.
CREATE FUNCTION sagaz_tiering.set_frame_attributes(pack integer, numbers integer[], texts text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[];
    losing uuid[];
    lost text[];
BEGIN
    ids := ARRAY(SELECT DISTINCT f.saga_id FROM sagaz_tiering.frames f WHERE f.pack_id = pack AND f.frame_no = ANY(numbers)
                  ORDER BY f.saga_id);
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
    SELECT array_agg(v.saga_id), array_agg(v.token) INTO losing, lost
      FROM (SELECT DISTINCT f.saga_id, t.token
              FROM sagaz_tiering.frames f, sagaz_tiering.tokens_of(f.attributes) AS p (part),
                   split_part(p.part, U&'\001E', 1) AS t (token)
             WHERE f.pack_id = pack AND f.frame_no = ANY(numbers) AND f.attributes IS NOT NULL) AS v;
    UPDATE sagaz_tiering.frames f SET attributes = v.attributes
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
