-- name: overview
-- How many packs there are, and how many snapshots in them and in those of which something has expired by $1.
SELECT count(*) AS packs, coalesce(sum(live_count), 0)::bigint AS live,
       coalesce(sum(live_count) FILTER (WHERE next_expiry_at <= $1), 0)::bigint AS expiring,
       (SELECT EXISTS (SELECT 1 FROM sagaz_tiering.sagas WHERE changed)) AS changed
  FROM sagaz_tiering.packs WHERE state = 'ACTIVE'

-- name: packs
-- Packs in state $1: each for itself ($2), or many alike together (same day, expiry bucket and order of size).
SELECT policy, storage_class, retention_revision, split_part(object_key, '/', 4) AS bucket,
       CASE WHEN $2 THEN pack_id END AS pack_id, count(*) AS packs, sum(byte_size)::bigint AS bytes,
       sum(live_count)::bigint AS snapshots, sum(snapshot_count)::bigint AS packed,
       min(min_created_at) AS min_created_at, max(max_clock_at) AS max_clock_at,
       to_timestamp(avg(extract(epoch FROM class_since)::float8)) AS class_since,
       min(next_expiry_at) AS next_expiry_at
  FROM sagaz_tiering.packs WHERE state = $1
 GROUP BY policy, storage_class, retention_revision, bucket, CASE WHEN $2 THEN pack_id END, live_count = 0,
          next_expiry_at IS NULL, date_trunc('day', max_clock_at), floor(ln(greatest(byte_size, 1)::float8) / ln(2::float8))
 ORDER BY min(pack_id)

-- name: expired_in_packs
-- Snapshots that have expired by $1 and that no hold keeps, by pack and by how their sagas end; those of sagas that went on
-- are decided anew before anything goes, and not among them.
SELECT p.pack_id, coalesce(g.status, t.status) AS end_status, count(*) AS expired
  FROM sagaz_tiering.packs p
  JOIN sagaz_tiering.snapshots s USING (pack_id)
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
  LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
 WHERE p.state = 'ACTIVE' AND p.next_expiry_at <= $1 AND s.expires_at <= $1 AND g.changed IS NOT TRUE
   AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
            AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status))
 GROUP BY p.pack_id, end_status

-- name: archived_names
-- The distinct names that policies look at in packs, with how their sagas end (of attributes those named $2), the most
-- frequent first.
SELECT t.saga_name, t.step_name, t.status, coalesce(g.status, t.status) AS end_status,
       sagaz_tiering.attributes_named(g.attributes, $2) AS end_attributes, count(*) AS snapshots
  FROM sagaz_tiering.packs p
  JOIN sagaz_tiering.snapshots s USING (pack_id)
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
  LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
 WHERE p.state = 'ACTIVE'
 GROUP BY 1, 2, 3, 4, 5 ORDER BY count(*) DESC LIMIT $1

-- name: archived_by_rules
-- Snapshots in packs that would have expired by $1 if other rules counted, and that no hold keeps, by pack and outcome: for
-- each of the names $5-$8 and attributes $9 (of those named $4) the outcome $10, the seconds $11 until its end (NULL:
-- none), its clock $12, and whether the rules $3 that packs are dated by say the same of it ($13): then, and in packs of the
-- rules $2, the recorded date counts.
WITH rules AS (
    SELECT * FROM unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::float8[],
                         $12::text[], $13::boolean[])
               AS r (saga_name, step_name, status, end_status, end_attributes, outcome, retain_s, clock, same))
SELECT p.pack_id, r.outcome AS end_status, count(*) AS expired
  FROM sagaz_tiering.packs p
  JOIN sagaz_tiering.snapshots s USING (pack_id)
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
  LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
  JOIN rules r ON (r.saga_name, r.step_name, r.status, r.end_status, r.end_attributes)
                  = (t.saga_name, t.step_name, t.status, coalesce(g.status, t.status),
                     sagaz_tiering.attributes_named(g.attributes, $4))
 WHERE p.state = 'ACTIVE'
   AND CASE WHEN p.retention_revision = $2 OR (r.same AND p.retention_revision = $3) THEN s.expires_at
            ELSE CASE r.clock WHEN 'saved_at' THEN p.max_clock_at
                              WHEN 'saga_end' THEN greatest(g.ended_at, s.created_at) ELSE s.created_at END
                 + r.retain_s * interval '1 second' END <= $1
   AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
            AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status))
 GROUP BY p.pack_id, r.outcome

-- name: durable_names
-- The distinct names that policies look at, with how their sagas end (of attributes those named $2), the most frequent
-- first.
SELECT d.saga_name, d.step_name, d.status, coalesce(g.status, d.status) AS end_status,
       sagaz_tiering.attributes_named(g.attributes, $2) AS end_attributes, count(*) AS snapshots
  FROM sagaz_tiering.saga_snapshots d LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
 GROUP BY 1, 2, 3, 4, 5 ORDER BY count(*) DESC LIMIT $1

-- name: durable_due
-- What is due or expired at $1, by policy, outcome and month of expiry: for each of the names $3-$6 and attributes $7 (of
-- those named $2) its outcome $8, the seconds until its end $9 (NULL: none) and its clock $10, its policy $11, the seconds
-- until its first move $12, the seconds after which it moves in a saga that runs $13 (NULL: as all), whether it never ends
-- $14, whether its own date counts $15, and whether what its saga was promised does $16.
WITH rules AS (
    SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::float8[], $10::text[],
                         $11::text[], $12::float8[], $13::float8[], $14::boolean[], $15::boolean[], $16::boolean[])
               AS r (saga_name, step_name, status, end_status, end_attributes, outcome, retain_s, clock, policy, after_s,
                     running_s, is_for_ever, own_counts, promise_counts)),
aged AS (
    SELECT r.*, octet_length(d.value) AS size, d.created_at, d.retention_until,
           CASE WHEN r.promise_counts THEN nullif(g.kept_us, -4611686018427387904) END AS kept_us,
           CASE r.clock WHEN 'saved_at' THEN greatest(d.saved_at, d.created_at)
                        WHEN 'saga_end' THEN greatest(g.ended_at, d.created_at) ELSE d.created_at END AS clock_at
      FROM sagaz_tiering.saga_snapshots d
      LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
      JOIN rules r ON (r.saga_name, r.step_name, r.status, r.end_status, r.end_attributes)
                      = (d.saga_name, d.step_name, d.status, coalesce(g.status, d.status),
                         sagaz_tiering.attributes_named(g.attributes, $2))),
dated AS (
    SELECT policy, outcome, size, clock_at,
           least(clock_at + after_s * interval '1 second', created_at + running_s * interval '1 second') AS due_at,
           CASE WHEN is_for_ever OR (retain_s IS NULL AND retention_until IS NULL) OR kept_us = 9223372036854775807
                THEN NULL
                ELSE greatest(clock_at + retain_s * interval '1 second',
                              CASE WHEN own_counts THEN retention_until END,
                              'epoch'::timestamptz + kept_us * interval '1 microsecond') END AS expires
      FROM aged)
SELECT policy, outcome, coalesce(expires <= $1, false) AS expired,
       coalesce(to_char(expires AT TIME ZONE 'UTC', 'YYYY-MM'), 'never') AS bucket, count(*) AS snapshots,
       sum(size)::bigint AS value_bytes, max(clock_at) AS youngest_clock_at, min(due_at) AS since
  FROM dated WHERE expires <= $1 OR due_at <= $1
 GROUP BY policy, outcome, expired, bucket ORDER BY policy, bucket, outcome

-- name: packs_of_saga
-- Packs that hold snapshots of a saga of which nothing was saved later, with those.
SELECT p.policy, p.storage_class, p.retention_revision, split_part(p.object_key, '/', 4) AS bucket, 1 AS packs,
       p.byte_size AS bytes, p.live_count AS snapshots, p.snapshot_count AS packed, p.min_created_at, p.max_clock_at,
       p.class_since, p.next_expiry_at, i.snapshot_ids
  FROM (SELECT f.pack_id, array_agg(s.snapshot_id) AS snapshot_ids
          FROM sagaz_tiering.frames f
          JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
         WHERE f.saga_id = $1
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = s.snapshot_id)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = s.snapshot_id)
         GROUP BY f.pack_id) AS i
  JOIN sagaz_tiering.packs p USING (pack_id)

-- name: share
-- A snapshot's pack, and how much of it its frame is.
SELECT p.policy, p.storage_class, p.retention_revision, split_part(p.object_key, '/', 4) AS bucket, 1 AS packs,
       p.byte_size AS bytes, p.live_count AS snapshots, p.snapshot_count AS packed, p.min_created_at, p.max_clock_at,
       p.class_since, p.next_expiry_at, p.object_key, p.created_at AS written_at, f.byte_length, f.byte_offset,
       (SELECT count(*) FROM sagaz_tiering.snapshots o WHERE o.pack_id = s.pack_id AND o.frame_no = s.frame_no)
           AS in_frame,
       NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = s.snapshot_id)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = s.snapshot_id) AS is_newest
  FROM sagaz_tiering.snapshots s
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE s.snapshot_id = $1
