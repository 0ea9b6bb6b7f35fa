-- name: names
-- Names that match a regular expression ($4; NULL: all), of those that begin from $1 on and before $2, in parallel; how many were looked
-- at in each at most ($3), and up to which saga an earlier version's can be found (NULL: all can).
WITH looked AS MATERIALIZED (
    SELECT n.* FROM unnest($1::text[], $2::text[]) AS v (first, beyond) CROSS JOIN LATERAL (
        SELECT name_id, saga_name FROM sagaz_tiering.saga_names
         WHERE left(saga_name, 64) COLLATE "C" >= v.first AND left(saga_name, 64) COLLATE "C" < v.beyond
         LIMIT $3) AS n)
SELECT (SELECT array_agg(DISTINCT name_id) FROM looked WHERE $4::text IS NULL OR saga_name ~ $4) AS found,
       (SELECT count(*) FROM looked) AS looked,
       CASE WHEN up_to IS NULL THEN found_up_to ELSE '00000000-0000-0000-0000-000000000000' END AS lacking
  FROM sagaz_tiering.sagas_filled

-- name: by_place
-- Sagas before a position ($1, $2), of places from $3 on, at most $4 looked at: the first $8 of which name, status and step
-- match $5, $6 and $7 (NULL: any), newest first, each with what there is of it ($9, $10: see present_of). Where it came to,
-- which comes also where none matches: the last one that counts as looked at, how many do, whether these are all.
WITH looked AS MATERIALIZED (
    SELECT g.* FROM sagaz_tiering.sagas g
     WHERE (g.place, g.saga_id) < ($1::bigint, $2::uuid) AND g.place >= $3::bigint
     ORDER BY g.place DESC, g.saga_id DESC LIMIT $4),

-- name: by_names
-- The same, of these names alone ($11). Each of their last places is looked up by itself: whichever way the planner took to all of
-- them at once, for some tables it would lead through all that began in that time, or all that there is of a name.
WITH places AS MATERIALIZED (
    (SELECT v.name_id, g.place FROM unnest($11::integer[]) AS v (name_id) CROSS JOIN LATERAL (
         SELECT s.place FROM sagaz_tiering.sagas s
          WHERE s.name_id = v.name_id AND s.place < $1::bigint AND s.place >= $3::bigint
          ORDER BY s.place DESC LIMIT $4) AS g
      ORDER BY g.place DESC LIMIT $4)
    UNION SELECT v.name_id, $1::bigint FROM unnest($11::integer[]) AS v (name_id)),
looked AS MATERIALIZED (
    SELECT g.* FROM places p CROSS JOIN LATERAL (
        SELECT * FROM sagaz_tiering.sagas s
         WHERE s.name_id = p.name_id AND s.place = p.place AND (s.place, s.saga_id) < ($1::bigint, $2::uuid) OFFSET 0) AS g
     ORDER BY g.place DESC, g.saga_id DESC LIMIT $4),

-- name: by_statuses
-- The same, of these names that have one of these statuses alone, none of which is `completed`: $11 and $12, in parallel, a name
-- and a status.
WITH looked AS MATERIALIZED (
    SELECT g.* FROM (
        SELECT DISTINCT v.name_id, hashtext(v.status) AS hash FROM unnest($11::integer[], $12::text[]) AS v (name_id, status)) AS e
     CROSS JOIN LATERAL (
        SELECT * FROM sagaz_tiering.sagas s
         WHERE s.name_id = e.name_id AND hashtext(s.status) = e.hash AND s.status <> 'completed'
           AND s.place <= $1::bigint AND (s.place, s.saga_id) < ($1::bigint, $2::uuid) AND s.place >= $3::bigint
         ORDER BY s.place DESC, s.saga_id DESC LIMIT $4) AS g
     ORDER BY g.place DESC, g.saga_id DESC LIMIT $4),

-- name: by_holds
-- The same, of those alone that a hold names.
WITH looked AS MATERIALIZED (
    SELECT g.* FROM (SELECT DISTINCT h.saga_id FROM sagaz_tiering.holds h) AS v CROSS JOIN LATERAL (
        SELECT * FROM sagaz_tiering.sagas s
         WHERE s.saga_id = v.saga_id AND (s.place, s.saga_id) < ($1::bigint, $2::uuid) AND s.place >= $3::bigint
        OFFSET 0) AS g
     ORDER BY g.place DESC, g.saga_id DESC LIMIT $4),

-- name: by_keys
-- The same, of those alone that have one of the tokens with these keys ($11), and of each other attribute one too: $12 and $13,
-- in parallel, which attribute and key; $14 how many attributes.
WITH keyed AS MATERIALIZED (
    SELECT DISTINCT a.place, a.saga_id FROM unnest($11::bigint[]) AS v (key) CROSS JOIN LATERAL (
        SELECT b.place, b.saga_id FROM sagaz_tiering.saga_attributes b
         WHERE b.key = v.key AND (b.place, b.saga_id) < ($1::bigint, $2::uuid) AND b.place >= $3::bigint
         ORDER BY b.place DESC, b.saga_id DESC LIMIT $4) AS a
     ORDER BY a.place DESC, a.saga_id DESC LIMIT $4),
looked AS MATERIALIZED (
    SELECT k.place, k.saga_id, g.ended_at, g.end_step, g.end_id, g.status, g.kept_us, g.attributes, g.step_name, g.name_id
      FROM keyed k LEFT JOIN LATERAL (
           SELECT * FROM sagaz_tiering.sagas s
            WHERE s.saga_id = k.saga_id
              AND (SELECT count(DISTINCT o.attribute) FROM unnest($12::integer[], $13::bigint[]) AS o (attribute, key)
                    WHERE EXISTS (SELECT 1 FROM sagaz_tiering.saga_attributes b
                                   WHERE b.key = o.key AND b.place = k.place AND b.saga_id = k.saga_id)) = $14) AS g ON true),

-- name: found
-- How each of the five goes on from the sagas that it `looked` at.
matched AS MATERIALIZED (
    SELECT l.saga_id, l.place, l.ended_at, l.end_step, l.end_id, l.status, l.kept_us, l.attributes, l.step_name, l.name_id
      FROM looked l
     WHERE l.end_id IS NOT NULL AND ($6::text IS NULL OR l.status ~ $6) AND ($7::text IS NULL OR l.step_name ~ $7)
       AND ($5::text IS NULL OR (SELECT n.saga_name FROM sagaz_tiering.saga_names n WHERE n.name_id = l.name_id) ~ $5)
     ORDER BY l.place DESC, l.saga_id DESC LIMIT $8),
reached AS (
    SELECT r.*, (SELECT count(*) FROM looked l WHERE (l.place, l.saga_id) >= (r.last_place, r.last_id)) AS looked
      FROM (SELECT l.place AS last_place, l.saga_id AS last_id,
                   (SELECT count(*) FROM looked) < $4 AND (SELECT count(*) FROM matched) < $8 AS is_all
              FROM looked l
             WHERE (SELECT count(*) FROM matched) < $8
                OR (l.place, l.saga_id) >= (SELECT m.place, m.saga_id FROM matched m ORDER BY m.place, m.saga_id LIMIT 1)
             ORDER BY l.place, l.saga_id LIMIT 1) AS r)
SELECT filled.lacking, reached.*, m.*, p.*, k.*, 1 AS packs, p.snapshots AS packed, p.dated_by AS retention_revision,
       p.made_at AS min_created_at, p.clock_at AS max_clock_at,
       (SELECT n.saga_name FROM sagaz_tiering.saga_names n WHERE n.name_id = m.name_id) AS saga_name
  FROM (SELECT CASE WHEN up_to IS NULL THEN found_up_to ELSE '00000000-0000-0000-0000-000000000000' END AS lacking
          FROM sagaz_tiering.sagas_filled) AS filled
  LEFT JOIN reached ON true
  LEFT JOIN matched m ON true
  LEFT JOIN LATERAL sagaz_tiering.present_of(m.saga_id, $9::integer, $10::text[]) AS p ON true
  LEFT JOIN LATERAL (  -- the pack, of those whose youngest is of one time the one that costs most
    SELECT split_part(o.object_key, '/', 4) AS bucket, o.byte_size AS bytes, o.class_since, o.next_expiry_at
      FROM sagaz_tiering.frames f CROSS JOIN LATERAL (SELECT * FROM sagaz_tiering.packs k WHERE k.pack_id = f.pack_id OFFSET 0) AS o
     WHERE p.storage_class IS NOT NULL AND f.saga_id = m.saga_id AND o.max_clock_at = p.clock_at AND o.policy = p.policy
       AND o.storage_class = p.storage_class
     ORDER BY o.byte_size DESC LIMIT 1) AS k ON true
 ORDER BY m.place DESC, m.saga_id DESC

-- name: any_by_match
-- Whether any hold in force is on what matches, and names no saga.
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds WHERE saga_id IS NULL)

-- name: rarity
-- How many have one of the keys of each attribute, up to $3 a key: $1 and $2, in parallel, which attribute and key.
SELECT v.attribute, count(*) FROM unnest($1::integer[], $2::bigint[]) AS v (attribute, key) LEFT JOIN LATERAL (
    SELECT 1 FROM sagaz_tiering.saga_attributes a WHERE a.key = v.key LIMIT $3) AS few ON true
 GROUP BY v.attribute ORDER BY count(*), v.attribute

-- name: all_by_place
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.sagas g WHERE g.place < $1::bigint AND g.place >= $2::bigint

-- name: all_by_names
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.sagas g
 WHERE g.name_id = ANY($3::integer[]) AND g.place < $1::bigint AND g.place >= $2::bigint

-- name: all_by_statuses
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.sagas g
 WHERE g.name_id = ANY($3::integer[]) AND g.status = ANY($4::text[]) AND g.place < $1::bigint AND g.place >= $2::bigint

-- name: all_by_holds
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.holds h JOIN sagaz_tiering.sagas g ON g.saga_id = h.saga_id
 WHERE g.place < $1::bigint AND g.place >= $2::bigint

-- name: all_by_keys
EXPLAIN (FORMAT JSON) SELECT 1 FROM sagaz_tiering.saga_attributes a
 WHERE a.key = ANY($3::bigint[]) AND a.place < $1::bigint AND a.place >= $2::bigint

-- name: unused_names
-- Of the next $2 names after $1, those that no saga has are noted as unused since $3, and those that were noted before $4 go: a
-- save that had looked one up before it was noted is over by then. The last that was looked at.
WITH batch AS MATERIALIZED (
    SELECT name_id FROM sagaz_tiering.saga_names WHERE name_id > $1 ORDER BY name_id LIMIT $2),
unused AS MATERIALIZED (
    SELECT n.name_id, n.unused_since FROM sagaz_tiering.saga_names n
     WHERE n.name_id = ANY(ARRAY(
           SELECT b.name_id FROM batch b
            WHERE (SELECT g.name_id FROM sagaz_tiering.sagas g
                    WHERE g.name_id = b.name_id AND g.place IS NOT NULL ORDER BY g.place LIMIT 1) IS NULL))
     ORDER BY n.name_id FOR UPDATE SKIP LOCKED),
noted AS (
    UPDATE sagaz_tiering.saga_names SET unused_since = $3
     WHERE name_id = ANY(ARRAY(SELECT u.name_id FROM unused u WHERE u.unused_since IS NULL))),
gone AS (
    DELETE FROM sagaz_tiering.saga_names
     WHERE name_id = ANY(ARRAY(SELECT u.name_id FROM unused u WHERE u.unused_since < $4)))
SELECT max(name_id) FROM batch
