-- The step that a saga is found by is that of its end, also once that has expired and others of it are there still.
DROP FUNCTION sagaz_tiering.names_in_tables(uuid[]);
CREATE FUNCTION sagaz_tiering.names_in_tables(ids uuid[])
RETURNS TABLE (saga_id uuid, began_at timestamptz, saga_name text, step_name text, end_id uuid) LANGUAGE sql STABLE AS $$
    WITH found AS (
        SELECT d.saga_id, d.created_at, d.step_index, d.snapshot_id, d.saga_name, d.step_name
          FROM sagaz_tiering.saga_snapshots d
         WHERE d.saga_id = ANY(ids)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h
                            WHERE h.snapshot_id = d.snapshot_id AND h.saved_at > d.saved_at)
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
    SELECT DISTINCT ON (n.saga_id) n.saga_id, min(n.created_at) OVER (PARTITION BY n.saga_id), n.saga_name, n.step_name,
           n.snapshot_id
      FROM found n
     ORDER BY n.saga_id, n.created_at DESC, n.step_index DESC, n.snapshot_id DESC
$$;

-- What `place_sagas` does where names are added and the rows of `sagas` are locked.
CREATE OR REPLACE FUNCTION sagaz_tiering.place_locked(ids uuid[], went boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH found AS MATERIALIZED (
        SELECT n.saga_id, g.place AS before,
               CASE WHEN g.name_id IS NULL OR n.end_id = g.end_id THEN m.name_id ELSE g.name_id END AS name_id,
               CASE WHEN g.name_id IS NULL OR n.end_id = g.end_id THEN n.step_name ELSE g.step_name END AS step_name,
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
