-- name: bury
-- Redis follows them once more.
INSERT INTO sagaz_tiering.tombstones AS t (snapshot_id, deleted_at, in_redis)
SELECT v.snapshot_id, max(v.at), true FROM unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, at)
 GROUP BY v.snapshot_id
ON CONFLICT (snapshot_id) DO UPDATE
   SET deleted_at = greatest(excluded.deleted_at, t.deleted_at), in_redis = true

-- name: delete_durable
DELETE FROM sagaz_tiering.saga_snapshots d USING unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, at)
 WHERE d.snapshot_id = v.snapshot_id AND d.saved_at <= v.at

-- name: delete_places
-- In packs that were made before: what a later one holds was saved after, or is not in it.
WITH gone AS (DELETE FROM sagaz_tiering.snapshots s
               USING unnest($1::uuid[], $2::timestamptz[]) AS v (snapshot_id, at), sagaz_tiering.packs p
               WHERE s.snapshot_id = v.snapshot_id AND p.pack_id = s.pack_id AND p.created_at <= v.at
              RETURNING s.pack_id)
UPDATE sagaz_tiering.packs p SET live_count = live_count - g.n
  FROM (SELECT pack_id, count(*) AS n FROM gone GROUP BY pack_id) AS g WHERE p.pack_id = g.pack_id

-- name: erase
-- No row comes back where the erasure is known already.
INSERT INTO sagaz_tiering.erasures
    (erasure_id, saga_id, requested_at, who, reason, hot, durable, archived, replays, snapshots)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (erasure_id) DO NOTHING RETURNING erasure_id

-- name: erased_as
SELECT erasure_id FROM sagaz_tiering.erasures WHERE saga_id = $1 AND requested_at = $2 LIMIT 1

-- name: pass_on
-- The same erasure, told once without its id and once with it.
UPDATE sagaz_tiering.erasure_packs SET erasure_id = $2 WHERE erasure_id = $1

-- name: drop_erasure
DELETE FROM sagaz_tiering.erasures WHERE erasure_id = $1

-- name: erasures
SELECT erasure_id, saga_id, requested_at, who, reason, hot, durable, archived, replays, snapshots
  FROM sagaz_tiering.erasures WHERE erasure_id > $1 ORDER BY erasure_id LIMIT $2

-- name: erase_hot
DELETE FROM sagaz_tiering.hot_saves WHERE saga_id = $1 AND saved_at <= $2

-- name: erase_durable
DELETE FROM sagaz_tiering.saga_snapshots WHERE saga_id = $1 AND saved_at <= $2

-- name: erase_replays
DELETE FROM sagaz_tiering.saga_replay_log WHERE (original_saga_id = $1 OR new_saga_id = $1) AND created_at <= $2

-- name: erase_places
WITH gone AS (DELETE FROM sagaz_tiering.snapshots s
               USING sagaz_tiering.frames f, sagaz_tiering.packs p
               WHERE f.saga_id = $1 AND s.pack_id = f.pack_id AND s.frame_no = f.frame_no
                 AND p.pack_id = f.pack_id AND p.created_at <= $2
              RETURNING s.pack_id)
UPDATE sagaz_tiering.packs p SET live_count = live_count - g.n
  FROM (SELECT pack_id, count(*) AS n FROM gone GROUP BY pack_id) AS g WHERE p.pack_id = g.pack_id

-- name: erase_packs
-- The receipt waits for the packs that still hold bytes of it which a key could open.
INSERT INTO sagaz_tiering.erasure_packs (erasure_id, pack_id)
SELECT DISTINCT $1::uuid, f.pack_id
  FROM sagaz_tiering.frames f JOIN sagaz_tiering.packs p USING (pack_id)
 WHERE f.saga_id = $2 AND p.state IN ('ACTIVE', 'RETIRING') AND p.created_at <= $3
   AND (f.key_id IS NULL OR EXISTS (SELECT 1 FROM sagaz_tiering.saga_keys k WHERE k.key_id = f.key_id))
ON CONFLICT DO NOTHING

-- name: log_hold
-- $1 hold, $2 action, $3 at, $4 who, $5 reason, $6 saga, $7 match: once, however often the journal tells it.
INSERT INTO sagaz_tiering.hold_log (hold_id, action, at, who, reason, saga_id, match)
SELECT $1, $2, $3, $4, $5, $6, $7
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.hold_log WHERE hold_id = $1 AND action = $2)

-- name: place_hold
-- A hold that was released is over, in whatever order the two are told.
INSERT INTO sagaz_tiering.holds
    (hold_id, saga_id, match, outcome, attributes, saga_name_re, step_name_re, status_re, outcome_re, attributes_re, reason,
     placed_by, placed_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.hold_log WHERE hold_id = $1 AND action = 'release')
ON CONFLICT (hold_id) DO NOTHING

-- name: release_hold
DELETE FROM sagaz_tiering.holds WHERE hold_id = $1 RETURNING saga_id, sagaz_tiering.whole_match(match, outcome, attributes) AS match

-- name: destroy_keys
DELETE FROM sagaz_tiering.saga_keys WHERE key_id = ANY($1::uuid[])

-- name: states
SELECT pack_id, pack_uuid, state, storage_class FROM sagaz_tiering.packs WHERE pack_uuid = ANY($1::uuid[])

-- name: drop_expired
-- Places in a pack whose object is gone, of what has expired by $2 and no legal hold keeps.
WITH gone AS (
    DELETE FROM sagaz_tiering.snapshots
     WHERE snapshot_id IN (SELECT s.snapshot_id
                             FROM sagaz_tiering.snapshots s
                             JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
                             JOIN sagaz_tiering.steps t USING (step_id)
                            WHERE s.pack_id = $1 AND s.expires_at <= $2
                              AND NOT sagaz_tiering.is_held(f.saga_id, t.saga_name, t.step_name, t.status))
    RETURNING 1)
UPDATE sagaz_tiering.packs SET live_count = live_count - (SELECT count(*) FROM gone) WHERE pack_id = $1

-- name: drop_pack
-- Nothing of a pack whose object is gone is anybody's any more.
UPDATE sagaz_tiering.packs SET state = 'DELETED', deleted_at = $2
 WHERE pack_id = $1 AND live_count = 0 AND state IN ('ACTIVE', 'RETIRING')

-- name: taken
SELECT * FROM sagaz_tiering.packs WHERE pack_uuid = $1 AND state = 'ACTIVE' AND retention_revision = $2

-- name: still_there
-- Of these deletions, by their place in the arrays, those that nothing here remembers and by which something would go,
-- here or ($3) in Redis. What a pack has may have been saved long before the pack was made: a rebuild goes by that time.
SELECT v.place FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS v (snapshot_id, at, place)
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.tombstones t WHERE t.snapshot_id = v.snapshot_id AND t.deleted_at >= v.at)
   AND (EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = v.snapshot_id AND d.saved_at <= v.at)
        OR EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = v.snapshot_id)
        OR v.snapshot_id = ANY($3::uuid[]))

-- name: known_erasures
-- Of these erasures (of the code before: without an id), by their place in the arrays, those that the table has.
SELECT v.place
  FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[])
       WITH ORDINALITY AS v (erasure_id, saga_id, at, who, reason, place)
 WHERE EXISTS (SELECT 1 FROM sagaz_tiering.erasures e WHERE e.saga_id = v.saga_id AND e.requested_at = v.at
                  AND (v.erasure_id IS NULL OR e.erasure_id = v.erasure_id) AND e.who = v.who AND e.reason = v.reason)

-- name: logged
SELECT hold_id, action, at, who, reason, saga_id, match FROM sagaz_tiering.hold_log WHERE hold_id = ANY($1::uuid[])

-- name: keys_there
SELECT key_id FROM sagaz_tiering.saga_keys WHERE key_id = ANY($1::uuid[])
