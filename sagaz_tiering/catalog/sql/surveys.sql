-- name: overview
-- How many packs there are, and how many snapshots are in those of which something has expired by $1.
SELECT count(*) AS packs, coalesce(sum(live_count) FILTER (WHERE next_expiry_at <= $1), 0)::bigint AS expiring
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
-- Snapshots that have expired by $1 and that no hold keeps, by pack.
SELECT p.pack_id, count(*) AS expired
  FROM sagaz_tiering.packs p
  JOIN sagaz_tiering.snapshots s USING (pack_id)
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
 WHERE p.state = 'ACTIVE' AND p.next_expiry_at <= $1 AND s.expires_at <= $1
   AND NOT ((SELECT EXISTS (SELECT 1 FROM sagaz_tiering.holds))
            AND sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status))
 GROUP BY p.pack_id

-- name: durable_names
-- The distinct names that policies look at, with how their sagas end, the most frequent first.
SELECT d.saga_name, d.step_name, d.status, coalesce(g.status, d.status) AS end_status, count(*) AS snapshots
  FROM sagaz_tiering.saga_snapshots d LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
 GROUP BY 1, 2, 3, 4 ORDER BY count(*) DESC LIMIT $1

-- name: durable_due
-- What is due or expired at $9, by policy and month of expiry: for each of the names $1-$4 its policy $5, the seconds
-- until its first move $6 and its end $7 (NULL: none), and its clock $8.
WITH rules AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::float8[],
                         $8::text[])
               AS r (saga_name, step_name, status, end_status, policy, after_s, retain_s, clock)),
aged AS (
    SELECT r.policy, r.after_s, r.retain_s, octet_length(d.value) AS size, d.retention_until,
           CASE r.clock WHEN 'saved_at' THEN greatest(d.saved_at, d.created_at)
                        WHEN 'saga_end' THEN greatest(g.ended_at, d.created_at) ELSE d.created_at END AS clock
      FROM sagaz_tiering.saga_snapshots d
      LEFT JOIN sagaz_tiering.sagas g USING (saga_id)
      JOIN rules r ON (r.saga_name, r.step_name, r.status, r.end_status)
                      = (d.saga_name, d.step_name, d.status, coalesce(g.status, d.status))),
dated AS (
    SELECT *, CASE WHEN retain_s IS NULL THEN retention_until
                   ELSE greatest(clock + retain_s * interval '1 second', retention_until) END AS expires
      FROM aged)
SELECT policy, coalesce(expires <= $9, false) AS expired, date_trunc('month', expires AT TIME ZONE 'UTC') AS month,
       count(*) AS snapshots, sum(size)::bigint AS bytes, max(clock) AS youngest,
       min(clock + after_s * interval '1 second') AS since
  FROM dated WHERE expires <= $9 OR clock + after_s * interval '1 second' <= $9
 GROUP BY policy, expired, month ORDER BY policy, month

-- name: share
-- A snapshot's pack, and how much of it its frame is.
SELECT p.policy, p.storage_class, p.retention_revision, p.object_key, p.byte_size, p.live_count, p.snapshot_count,
       p.min_created_at, p.max_clock_at, p.class_since, p.next_expiry_at, p.created_at, f.byte_length, f.byte_offset,
       (SELECT count(*) FROM sagaz_tiering.snapshots o WHERE o.pack_id = s.pack_id AND o.frame_no = s.frame_no)
           AS in_frame
  FROM sagaz_tiering.snapshots s
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE s.snapshot_id = $1
