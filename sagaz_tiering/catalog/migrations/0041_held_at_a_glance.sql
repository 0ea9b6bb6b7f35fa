-- `find` asks `is_held`, which takes long, only of what a hold may be on by its saga, name, step and status.

-- What there is of a saga, each snapshot once, expired ones included: the newest `singly` ones by themselves, of the others those
-- that rules see alike together, with the latest of their times. Of the attributes of those, the `wanted` tokens alone.
CREATE OR REPLACE FUNCTION sagaz_tiering.present_of(saga uuid, singly integer, wanted text[])
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
           (EXISTS (SELECT 1 FROM sagaz_tiering.holds h WHERE h.saga_id = $1)
            OR EXISTS (SELECT 1 FROM sagaz_tiering.holds h
                        WHERE h.saga_id IS NULL
                          AND (h.saga_name_re IS NULL OR p.saga_name ~ h.saga_name_re)
                          AND (h.step_name_re IS NULL OR p.step_name ~ h.step_name_re)
                          AND (h.status_re IS NULL OR p.status ~ h.status_re)))
           AND sagaz_tiering.is_held($1, p.saga_name, p.step_name, p.status)
      FROM present p
$$;
