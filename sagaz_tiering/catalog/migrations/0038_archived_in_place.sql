-- A saga that comes into the table by its archived part is written once, in its place, and not once more to have one.
CREATE OR REPLACE FUNCTION sagaz_tiering.note_archived(ended_at timestamptz[], kept_us bigint[], end_step integer[],
                                                       saga_id uuid[], end_id uuid[], status text[], attributes text[])
RETURNS void LANGUAGE sql AS $$
    SELECT sagaz_tiering.add_names_of($4);
    INSERT INTO sagaz_tiering.sagas AS g
        (ended_at, kept_us, end_step, saga_id, end_id, status, attributes, place, name_id, step_name)
    SELECT v.*, sagaz_tiering.place_of(n.began_at, n.saga_id), m.name_id, n.step_name
      FROM unnest($1, $2, $3, $4, $5, $6, $7) AS v (ended_at, kept_us, end_step, saga_id, end_id, status, attributes)
      LEFT JOIN sagaz_tiering.names_in_tables(ARRAY(
               SELECT u.id FROM unnest($4) AS u (id)
                WHERE (SELECT s.saga_id FROM sagaz_tiering.sagas s WHERE s.saga_id = u.id) IS NULL)) AS n
             ON n.saga_id = v.saga_id
      LEFT JOIN sagaz_tiering.saga_names m ON m.digest = sagaz_tiering.name_digest(n.saga_name)
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
