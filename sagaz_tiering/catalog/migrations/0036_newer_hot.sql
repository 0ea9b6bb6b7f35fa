-- A save that Redis alone acknowledged takes the place of an older one of its snapshot that PostgreSQL has still: that says neither
-- where its saga ends nor what it is called.
CREATE OR REPLACE FUNCTION sagaz_tiering.ends_in_tables(ids uuid[])
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
          FROM sagaz_tiering.saga_snapshots d
         WHERE d.saga_id = ANY(ids)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h
                            WHERE h.snapshot_id = d.snapshot_id AND h.saved_at > d.saved_at)
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

CREATE OR REPLACE FUNCTION sagaz_tiering.names_in_tables(ids uuid[])
RETURNS TABLE (saga_id uuid, began_at timestamptz, saga_name text, step_name text) LANGUAGE sql STABLE AS $$
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
    SELECT DISTINCT ON (n.saga_id) n.saga_id, min(n.created_at) OVER (PARTITION BY n.saga_id), n.saga_name, n.step_name
      FROM found n
     ORDER BY n.saga_id, n.created_at DESC, n.step_index DESC, n.snapshot_id DESC
$$;

SELECT sagaz_tiering.refresh_sagas(ARRAY(
    SELECT DISTINCT d.saga_id FROM sagaz_tiering.hot_saves h JOIN sagaz_tiering.saga_snapshots d USING (snapshot_id)
     WHERE h.saved_at > d.saved_at));
