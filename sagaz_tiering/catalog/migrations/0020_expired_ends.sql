-- What expired was the end of its saga still: by that the rest of the saga is judged, which has another date of its own or
-- is in another tier, until that is gone too. Else a saga that failed would be one that runs once its end is removed.
CREATE OR REPLACE FUNCTION sagaz_tiering.follow_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    expiring boolean := current_setting('sagaz_tiering.expiring', true) = 'on';
    touched uuid[];
    ended uuid[];
BEGIN
    IF TG_TABLE_NAME = 'snapshots' THEN
        touched := ARRAY(SELECT DISTINCT f.saga_id FROM gone o
                           JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no);
    ELSIF expiring THEN
        touched := ARRAY(SELECT DISTINCT o.saga_id FROM gone o);
    END IF;
    IF expiring THEN
        ended := '{}';
    ELSIF TG_TABLE_NAME = 'snapshots' THEN
        ended := ARRAY(SELECT DISTINCT g.saga_id FROM gone o
                         JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no
                         JOIN sagaz_tiering.sagas g ON g.saga_id = f.saga_id AND g.end_id = o.snapshot_id
                        WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                                           WHERE d.snapshot_id = o.snapshot_id AND d.saga_id = g.saga_id)
                          AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h
                                           WHERE h.snapshot_id = o.snapshot_id AND h.saga_id = g.saga_id));
    ELSE
        ended := ARRAY(SELECT DISTINCT g.saga_id FROM gone o
                         JOIN sagaz_tiering.sagas g ON g.saga_id = o.saga_id AND g.end_id = o.snapshot_id
                        WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = o.snapshot_id));
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
