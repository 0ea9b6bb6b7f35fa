-- name: create
INSERT INTO sagaz_tiering.restores
    (restore_id, state, digest, retrieval, days, into_hot, requested_by, requested_at, eta_at, cost_usd, snapshot_count)
VALUES ($1, 'RESTORING', '', $2, $3, $4, $5, $6, $6, 0, 0)

-- name: select_items
-- What is asked for: sagas, ids, regular expressions over the names, a time span, classes, one each over outcomes and attributes; NULL: any.
INSERT INTO sagaz_tiering.restore_items (restore_id, pack_id, snapshot_id)
SELECT $1, s.pack_id, s.snapshot_id
  FROM sagaz_tiering.snapshots s
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.steps t USING (step_id)
  JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE p.state = 'ACTIVE' AND p.storage_class = ANY($9::text[])
   AND ($2::uuid[] IS NULL OR f.saga_id = ANY($2::uuid[]))
   AND ($3::uuid[] IS NULL OR s.snapshot_id = ANY($3::uuid[]))
   AND ($4::text IS NULL OR t.saga_name ~ $4) AND ($5::text IS NULL OR t.step_name ~ $5)
   AND ($6::text IS NULL OR t.status ~ $6)
   AND ($7::timestamptz IS NULL OR s.created_at >= $7) AND ($8::timestamptz IS NULL OR s.created_at <= $8)
   AND ($10::text IS NULL AND $11::text IS NULL OR sagaz_tiering.ends_so(f.saga_id, $10, $11))

-- name: select_packs
INSERT INTO sagaz_tiering.restore_packs (restore_id, pack_id, state)
SELECT DISTINCT restore_id, pack_id, 'WAITING' FROM sagaz_tiering.restore_items WHERE restore_id = $1

-- name: asked_for
-- How much, and a digest of what: the same request again has the same.
SELECT count(*) AS snapshots,
       sha256(coalesce(string_agg(uuid_send(snapshot_id), ''::bytea ORDER BY snapshot_id), ''::bytea)) AS digest
  FROM sagaz_tiering.restore_items WHERE restore_id = $1

-- name: volumes
-- Packs and bytes by class, of all packs or of these ($2); those that another restore has asked for already cost nothing more.
SELECT p.storage_class, count(*) AS packs, sum(p.byte_size)::bigint AS bytes,
       count(*) FILTER (WHERE n.new) AS new_packs, coalesce(sum(p.byte_size) FILTER (WHERE n.new), 0)::bigint AS new_bytes
  FROM sagaz_tiering.restore_packs rp
  JOIN sagaz_tiering.packs p USING (pack_id)
 CROSS JOIN LATERAL (SELECT NOT EXISTS (
           SELECT 1 FROM sagaz_tiering.restore_packs o JOIN sagaz_tiering.restores r USING (restore_id)
            WHERE o.pack_id = rp.pack_id AND o.restore_id <> rp.restore_id
              AND o.state IN ('ASKED', 'READABLE') AND r.state = 'RESTORING') AS new) AS n
 WHERE rp.restore_id = $1 AND ($2::integer[] IS NULL OR rp.pack_id = ANY($2::integer[])) GROUP BY p.storage_class

-- name: same
SELECT * FROM sagaz_tiering.restores WHERE digest = $1 AND into_hot = $2 AND state IN ('RESTORING', 'READY')

-- name: complete
UPDATE sagaz_tiering.restores SET digest = $2, eta_at = $3, cost_usd = $4, snapshot_count = $5 WHERE restore_id = $1

-- name: get
SELECT * FROM sagaz_tiering.restores WHERE restore_id = $1

-- name: newest
-- Behind the request of $2 with id $3.
SELECT * FROM sagaz_tiering.restores
 WHERE $2::timestamptz IS NULL OR requested_at < $2 OR requested_at = $2 AND restore_id > $3::uuid
 ORDER BY requested_at DESC, restore_id LIMIT $1

-- name: in_state
SELECT * FROM sagaz_tiering.restores WHERE state = $1 ORDER BY requested_at, restore_id

-- name: progress
SELECT state, count(*) AS packs FROM sagaz_tiering.restore_packs WHERE restore_id = $1 GROUP BY state

-- name: errors
SELECT p.object_key, rp.error FROM sagaz_tiering.restore_packs rp JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE rp.restore_id = $1 AND rp.error IS NOT NULL ORDER BY rp.pack_id LIMIT 20

-- name: packs
-- Packs of a restore in a state, after a pack.
SELECT p.*
  FROM sagaz_tiering.restore_packs rp JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE rp.restore_id = $1 AND rp.state = $2 AND rp.pack_id > $3 ORDER BY rp.pack_id LIMIT $4

-- name: set_pack
UPDATE sagaz_tiering.restore_packs SET state = $3, error = $4 WHERE restore_id = $1 AND pack_id = $2

-- name: places
-- Where the asked snapshots of a pack are now: frames of whatever pack holds them.
SELECT s.snapshot_id, f.saga_id, s.pack_id, p.object_key, p.storage_class, p.byte_size AS object_size,
       p.snapshot_count AS most, f.byte_offset AS "offset", f.byte_length AS length, uuid_send(f.digest) AS digest,
       f.key_id IS NOT NULL AS encrypted, f.key_id, k.wrapped, k.master_id, coalesce(f.attributes, '') AS attributes
  FROM sagaz_tiering.restore_items i
  JOIN sagaz_tiering.snapshots s USING (snapshot_id)
  JOIN sagaz_tiering.frames f ON f.pack_id = s.pack_id AND f.frame_no = s.frame_no
  JOIN sagaz_tiering.packs p ON p.pack_id = s.pack_id
  LEFT JOIN sagaz_tiering.saga_keys k ON k.key_id = f.key_id
 WHERE i.restore_id = $1 AND i.pack_id = $2
 ORDER BY p.object_key, f.byte_offset

-- name: keep_places
-- Those of these snapshots that are in this frame; whoever deletes one waits for the end of the transaction.
SELECT s.snapshot_id
  FROM sagaz_tiering.snapshots s
  JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
  JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE s.snapshot_id = ANY($1::uuid[]) AND p.object_key = $2 AND f.byte_offset = $3
 ORDER BY s.snapshot_id FOR KEY SHARE OF s

-- name: pin
INSERT INTO sagaz_tiering.pins (snapshot_id, until) SELECT unnest($1::uuid[]), $2
ON CONFLICT (snapshot_id) DO UPDATE SET until = greatest(pins.until, excluded.until)

-- name: pinned
SELECT snapshot_id, until FROM sagaz_tiering.pins WHERE snapshot_id = ANY($1::uuid[]) AND until > $2

-- name: any_pins
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.pins WHERE until > $1)

-- name: unpin
DELETE FROM sagaz_tiering.pins WHERE until <= $1

-- name: unpin_cancelled
-- What a cancelled restore pinned, unless another one still asks for it.
DELETE FROM sagaz_tiering.pins p USING sagaz_tiering.restore_items i
 WHERE i.restore_id = $1 AND p.snapshot_id = i.snapshot_id
   AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.restore_items o JOIN sagaz_tiering.restores r USING (restore_id)
                    WHERE o.snapshot_id = i.snapshot_id AND o.restore_id <> $1 AND r.into_hot
                      AND r.state IN ('RESTORING', 'READY'))

-- name: ready
UPDATE sagaz_tiering.restores SET state = $2, ready_at = $3, readable_until = $4
 WHERE restore_id = $1 AND state = 'RESTORING'

-- name: ended
UPDATE sagaz_tiering.restores SET state = $2, ended_at = $3
 WHERE restore_id = $1 AND state IN ('RESTORING', 'READY')

-- name: brought_back
-- What a restore brought back and must still be in Redis, after an id.
SELECT DISTINCT i.snapshot_id
  FROM sagaz_tiering.restore_items i
  JOIN sagaz_tiering.restore_packs rp USING (restore_id, pack_id)
  JOIN sagaz_tiering.snapshots s USING (snapshot_id)
  JOIN sagaz_tiering.packs p ON p.pack_id = s.pack_id
 WHERE i.restore_id = $1 AND i.snapshot_id > $2 AND rp.state = 'DONE' AND p.state = 'ACTIVE'
   AND (s.expires_at IS NULL OR s.expires_at > $3)
 ORDER BY i.snapshot_id LIMIT $4

-- name: wait_again
-- The packs of which these were brought back are worked on anew; which.
UPDATE sagaz_tiering.restore_packs rp SET state = 'WAITING', error = $3
 WHERE rp.restore_id = $1 AND rp.state = 'DONE' AND rp.pack_id IN (
       SELECT pack_id FROM sagaz_tiering.restore_items WHERE restore_id = $1 AND snapshot_id = ANY($2::uuid[]))
RETURNING rp.pack_id

-- name: active
-- Whether it has not ended; nobody ends it meanwhile.
SELECT retrieval, days, state FROM sagaz_tiering.restores
 WHERE restore_id = $1 AND into_hot AND state IN ('RESTORING', 'READY') FOR UPDATE

-- name: reopen
UPDATE sagaz_tiering.restores
   SET state = 'RESTORING', ready_at = NULL, readable_until = NULL, notified_at = NULL, notify_attempts = 0,
       eta_at = greatest(CASE WHEN state = 'RESTORING' THEN eta_at ELSE $2 END, $2), cost_usd = cost_usd + $3
 WHERE restore_id = $1

-- name: unnotified
SELECT * FROM sagaz_tiering.restores
 WHERE notified_at IS NULL AND ready_at IS NOT NULL AND notify_attempts < $1 ORDER BY ready_at

-- name: notified
UPDATE sagaz_tiering.restores SET notified_at = $2, notify_attempts = notify_attempts + 1 WHERE restore_id = $1
