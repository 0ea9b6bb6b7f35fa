-- name: look
-- What must be known before Redis alone is believed; the number is the one from before this look.
SELECT h.nonce, h.number, h.run_id, h.trusted, h.changes,
       (SELECT since IS NOT NULL FROM sagaz_tiering.spill) AS fallback,
       (SELECT min(first_after) FROM sagaz_tiering.policy_revisions) AS first_after,
       EXISTS (SELECT 1 FROM sagaz_tiering.packs) AS packed,
       (SELECT number FROM sagaz_tiering.accepted_retention) AS accepted,
       ARRAY(SELECT sagaz_tiering.whole_match(match, outcome, attributes)::text FROM sagaz_tiering.holds
              WHERE saga_id IS NULL ORDER BY placed_at, hold_id) AS held
  FROM sagaz_tiering.hot_tier h

-- name: note
-- Redis has come as far as $1; once a second is enough, whoever says it.
UPDATE sagaz_tiering.hot_tier SET number = $1, noted_at = clock_timestamp()
 WHERE only_row IN (SELECT only_row FROM sagaz_tiering.hot_tier
                     WHERE nonce = $2 AND number < $1
                       AND noted_at NOT BETWEEN clock_timestamp() - interval '1 second' AND clock_timestamp()
                       FOR UPDATE SKIP LOCKED)

-- name: lock
SELECT nonce, number, run_id, trusted, changes FROM sagaz_tiering.hot_tier FOR UPDATE

-- name: knows_nothing
-- Nothing was ever saved, deleted or packed that a Redis could lack or have too much of.
SELECT NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots) AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.tombstones)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.forgotten) AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.packs)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves)

-- name: change
-- Another one is met. Of several before the next reconciliation the one that had the oldest past counts.
UPDATE sagaz_tiering.hot_tier
   SET nonce = $1, number = $2, run_id = $3, noted_at = clock_timestamp(), changes = changes + 1,
       changed_at = $7, reason = $4, trusted = $6, reconciled_at = CASE WHEN $6 THEN $7 ELSE reconciled_at END,
       good_at = CASE WHEN trusted THEN $5::timestamptz WHEN good_at IS NULL OR $5 IS NULL THEN NULL
                      ELSE least(good_at, $5) END
RETURNING good_at

-- name: doubt
-- It is the same one, but something that it should have is not there.
UPDATE sagaz_tiering.hot_tier
   SET trusted = false, changes = changes + 1, changed_at = $1, reason = $2,
       good_at = CASE WHEN trusted THEN $1::timestamptz ELSE good_at END

-- name: doubt_all
-- It may be the same one, but this catalog went back to an older state: all that Redis has is looked at. That it may be from
-- before deletions are remembered, or before one was met, stays known, and is learnt of one that is met later.
UPDATE sagaz_tiering.hot_tier
   SET trusted = false, changes = changes + 1, changed_at = $1, reason = $2,
       good_at = CASE WHEN trusted THEN $1::timestamptz ELSE good_at END,
       reconciled_at = CASE WHEN trusted OR good_at IS NOT NULL THEN NULL ELSE reconciled_at END
 WHERE nonce IS NOT NULL

-- name: trust
UPDATE sagaz_tiering.hot_tier SET trusted = true, reconciled_at = $2
 WHERE NOT trusted AND changes = $1

-- name: transactions_begun
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint

-- name: transactions_ended
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- name: state
SELECT nonce, trusted, changes, changed_at, reason, good_at, reconciled_at, lost_ever,
       (SELECT count(*) FROM sagaz_tiering.hot_saves h WHERE lost_at IS NOT NULL AND NOT EXISTS (
               SELECT 1 FROM sagaz_tiering.saga_snapshots d
                WHERE d.snapshot_id = h.snapshot_id AND d.saved_at >= h.saved_at)) AS lost
  FROM sagaz_tiering.hot_tier
