-- Whether what is stored of a snapshot, durable or in a pack, is under a legal hold: then nothing replaces it.
CREATE FUNCTION sagaz_tiering.is_frozen(id uuid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                    WHERE d.snapshot_id = $1
                      AND sagaz_tiering.is_held(d.saga_id, d.saga_name, d.step_name, d.status))
        OR EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s
                     JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
                     JOIN sagaz_tiering.steps t USING (step_id)
                    WHERE s.snapshot_id = $1
                      AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status))
$$;
