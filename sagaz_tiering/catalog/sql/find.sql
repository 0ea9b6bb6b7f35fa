-- name: fill
-- Up to which saga an earlier version's can be found (NULL: all can).
SELECT CASE WHEN up_to IS NULL THEN found_up_to ELSE '00000000-0000-0000-0000-000000000000' END FROM sagaz_tiering.sagas_filled

-- name: names
-- The next names that match, and the last one that was looked at: $1 after, $2 how many, $3 a regular expression.
WITH looked AS MATERIALIZED (
    SELECT name_id, saga_name FROM sagaz_tiering.saga_names WHERE name_id > $1 ORDER BY name_id LIMIT $2)
SELECT array_agg(name_id) FILTER (WHERE saga_name ~ $3) AS found, max(name_id) AS last FROM looked

-- name: exact_names
SELECT array_agg(name_id) FROM sagaz_tiering.saga_names
 WHERE digest = ANY(ARRAY(SELECT sagaz_tiering.name_digest(v.saga_name) FROM unnest($1::text[]) AS v (saga_name)))

-- name: by_place
-- Sagas before a position ($1, $2), of places from $3 on, at most $4 looked at: those of which name, status and step match
-- $5, $6 and $7 (NULL: any), newest first; with the last one that was looked at, which comes also where none matches.
WITH looked AS MATERIALIZED (
    SELECT g.* FROM sagaz_tiering.sagas g
     WHERE (g.place, g.saga_id) < ($1::bigint, $2::uuid) AND g.place >= $3::bigint
     ORDER BY g.place DESC, g.saga_id DESC LIMIT $4),
last AS (SELECT place AS last_place, saga_id AS last_id, (SELECT count(*) FROM looked) AS looked
           FROM looked ORDER BY place, saga_id LIMIT 1)
SELECT last.*, g.* FROM last LEFT JOIN (
    SELECT l.saga_id, l.place, l.ended_at, l.end_step, l.end_id, l.status, l.kept_us, l.attributes, l.step_name, l.saga_name
      FROM (SELECT *, (SELECT n.saga_name FROM sagaz_tiering.saga_names n WHERE n.name_id = k.name_id) AS saga_name
              FROM looked k OFFSET 0) AS l
     WHERE ($5::text IS NULL OR l.saga_name ~ $5) AND ($6::text IS NULL OR l.status ~ $6)
       AND ($7::text IS NULL OR l.step_name ~ $7)
) AS g ON true ORDER BY g.place DESC, g.saga_id DESC

-- name: by_names
-- The same, of these names alone ($8).
WITH looked AS MATERIALIZED (
    SELECT g.* FROM unnest($8::integer[]) AS v (name_id) CROSS JOIN LATERAL (
        SELECT * FROM sagaz_tiering.sagas s
         WHERE s.name_id = v.name_id AND (s.place, s.saga_id) < ($1::bigint, $2::uuid) AND s.place >= $3::bigint
         ORDER BY s.place DESC, s.saga_id DESC LIMIT $4) AS g
     ORDER BY g.place DESC, g.saga_id DESC LIMIT $4),
last AS (SELECT place AS last_place, saga_id AS last_id, (SELECT count(*) FROM looked) AS looked
           FROM looked ORDER BY place, saga_id LIMIT 1)
SELECT last.*, g.* FROM last LEFT JOIN (
    SELECT l.saga_id, l.place, l.ended_at, l.end_step, l.end_id, l.status, l.kept_us, l.attributes, l.step_name, l.saga_name
      FROM (SELECT *, (SELECT n.saga_name FROM sagaz_tiering.saga_names n WHERE n.name_id = k.name_id) AS saga_name
              FROM looked k OFFSET 0) AS l
     WHERE ($5::text IS NULL OR l.saga_name ~ $5) AND ($6::text IS NULL OR l.status ~ $6)
       AND ($7::text IS NULL OR l.step_name ~ $7)
) AS g ON true ORDER BY g.place DESC, g.saga_id DESC

-- name: by_keys
-- The same, of those alone that have one of the tokens with these keys ($8), and of each other attribute one too: $9 and $10,
-- in parallel, which attribute and key; $11 how many attributes.
WITH keyed AS MATERIALIZED (
    SELECT DISTINCT a.place, a.saga_id FROM unnest($8::bigint[]) AS v (key) CROSS JOIN LATERAL (
        SELECT b.place, b.saga_id FROM sagaz_tiering.saga_attributes b
         WHERE b.key = v.key AND (b.place, b.saga_id) < ($1::bigint, $2::uuid) AND b.place >= $3::bigint
         ORDER BY b.place DESC, b.saga_id DESC LIMIT $4) AS a
     ORDER BY a.place DESC, a.saga_id DESC LIMIT $4),
looked AS MATERIALIZED (
    SELECT k.place, k.saga_id, g.ended_at, g.end_step, g.end_id, g.status, g.kept_us, g.attributes, g.step_name, g.name_id
      FROM keyed k LEFT JOIN LATERAL (
           SELECT * FROM sagaz_tiering.sagas s
            WHERE s.saga_id = k.saga_id
              AND (SELECT count(DISTINCT o.attribute) FROM unnest($9::integer[], $10::bigint[]) AS o (attribute, key)
                    WHERE EXISTS (SELECT 1 FROM sagaz_tiering.saga_attributes b
                                   WHERE b.key = o.key AND b.place = k.place AND b.saga_id = k.saga_id)) = $11) AS g ON true),
last AS (SELECT place AS last_place, saga_id AS last_id, (SELECT count(*) FROM looked) AS looked
           FROM looked ORDER BY place, saga_id LIMIT 1)
SELECT last.*, g.* FROM last LEFT JOIN (
    SELECT l.saga_id, l.place, l.ended_at, l.end_step, l.end_id, l.status, l.kept_us, l.attributes, l.step_name, l.saga_name
      FROM (SELECT *, (SELECT n.saga_name FROM sagaz_tiering.saga_names n WHERE n.name_id = k.name_id) AS saga_name
              FROM looked k OFFSET 0) AS l
     WHERE l.end_id IS NOT NULL AND ($5::text IS NULL OR l.saga_name ~ $5) AND ($6::text IS NULL OR l.status ~ $6)
       AND ($7::text IS NULL OR l.step_name ~ $7)
) AS g ON true ORDER BY g.place DESC, g.saga_id DESC

-- name: rarity
-- How many have one of these keys, up to $2.
SELECT count(*) FROM unnest($1::bigint[]) AS v (key) CROSS JOIN LATERAL (
    SELECT 1 FROM sagaz_tiering.saga_attributes a WHERE a.key = v.key LIMIT $2) AS few

-- name: all_by_place
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.sagas g WHERE g.place < $1::bigint AND g.place >= $2::bigint

-- name: all_by_names
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.sagas g
 WHERE g.name_id = ANY($3::integer[]) AND g.place < $1::bigint AND g.place >= $2::bigint

-- name: all_by_keys
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.saga_attributes a
 WHERE a.key = ANY($3::bigint[]) AND a.place < $1::bigint AND a.place >= $2::bigint

-- name: present
-- What there is of these sagas, each snapshot once: as it counts, expired ones included.
SELECT d.saga_id, d.snapshot_id, d.saga_name, d.step_name, d.step_index, d.status, d.created_at, d.saved_at AS clock_at,
       d.retention_until, d.expires_at, true AS is_own_date_known, NOT d.spilled AS in_redis, NULL::text AS storage_class,
       NULL::text AS dated_by, NULL::text AS policy, d.attributes
  FROM sagaz_tiering.saga_snapshots d
 WHERE d.saga_id = ANY($1::uuid[])
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = d.snapshot_id AND h.saved_at > d.saved_at)
UNION ALL
SELECT h.saga_id, h.snapshot_id, h.saga_name, h.step_name, h.step_index, h.status, h.created_at, h.saved_at,
       nullif(h.retention_until, 'infinity'), h.expires_at, h.retention_until IS NOT NULL, true, NULL,
       NULL, NULL, h.attributes
  FROM sagaz_tiering.hot_saves h
 WHERE h.saga_id = ANY($1::uuid[])
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                    WHERE d.snapshot_id = h.snapshot_id AND d.saved_at >= h.saved_at)
UNION ALL
SELECT f.saga_id, s.snapshot_id, t.saga_name, t.step_name, t.step_index, t.status, s.created_at, p.max_clock_at,
       NULL, s.expires_at, false, false, p.storage_class, p.retention_revision, p.policy,
       (SELECT string_agg(o.token, U&'\001F') FROM sagaz_tiering.tokens_of_one(f.attributes, s.snapshot_id) AS o (token))
  FROM sagaz_tiering.frames f
  JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
  JOIN sagaz_tiering.packs p USING (pack_id)
  JOIN sagaz_tiering.steps t USING (step_id)
 WHERE f.saga_id = ANY($1::uuid[])
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = s.snapshot_id)
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = s.snapshot_id)
