-- name: cold
-- Packs by class, those that wait for their deletion apart; below $1 bytes they are undersized. `came`: snapshots in packs
-- that came into the class before the hour $2, since the last hour that has a row.
WITH last AS (SELECT max(hour) AS hour FROM sagaz_tiering.history WHERE hour < $2)
SELECT storage_class, state = 'RETIRING' AS retiring, count(*) AS packs, sum(byte_size)::bigint AS bytes,
       sum(live_count)::bigint AS snapshots, sum(snapshot_count)::bigint AS packed,
       count(*) FILTER (WHERE byte_size < $1) AS undersized,
       coalesce(sum(live_count) FILTER (WHERE class_since < $2 AND class_since >= coalesce(last.hour, $2 - interval '1 hour')),
                0)::bigint AS came,
       max(created_at) AS newest_at
  FROM sagaz_tiering.packs, last WHERE state IN ('ACTIVE', 'RETIRING')
 GROUP BY storage_class, state ORDER BY storage_class, state

-- name: open_work
-- What waits for somebody at $1: how many of what kind and state, and since when.
SELECT 'quarantine' AS what, kind, state, count(*) AS number, min(first_seen) AS since
  FROM sagaz_tiering.quarantine WHERE state <> 'DROPPED' GROUP BY kind, state
UNION ALL
SELECT 'restore', '', state, count(*), min(requested_at) FROM sagaz_tiering.restores GROUP BY state
UNION ALL
SELECT 'late_restore', '', '', count(*), min(eta_at)
  FROM sagaz_tiering.restores WHERE state = 'RESTORING' AND eta_at < $1
UNION ALL
SELECT 'hold', '', '', count(*), min(placed_at) FROM sagaz_tiering.holds
UNION ALL
SELECT 'journal', '', '', count(*), min(at) FROM sagaz_tiering.journal WHERE published_at IS NULL
UNION ALL
SELECT 'erasure', '', '', count(*), min(e.requested_at)
  FROM sagaz_tiering.erasure_packs JOIN sagaz_tiering.erasures e USING (erasure_id)
UNION ALL
SELECT 'changed_saga', '', '', count(*), NULL FROM sagaz_tiering.sagas WHERE changed
UNION ALL
SELECT 'many_values', attribute, '', count(*), NULL FROM sagaz_tiering.sagas_of_many_values GROUP BY attribute
UNION ALL
-- Not what other policies make due for a look: that has no time.
SELECT 'due', '', '', NULL, min(due_at) FROM sagaz_tiering.saga_snapshots WHERE due_at <= $1 AND due_at > '-infinity'

-- name: note_hour
-- One row an hour, whoever is first; rows before $3 go.
WITH gone AS (DELETE FROM sagaz_tiering.history WHERE hour < $3)
INSERT INTO sagaz_tiering.history (hour, holdings) VALUES ($1, $2) ON CONFLICT (hour) DO NOTHING

-- name: hours
-- The last row of each $2 since $1, the oldest first.
SELECT DISTINCT ON (date_bin($2, hour, $1)) hour, holdings
  FROM sagaz_tiering.history WHERE hour >= $1
 ORDER BY date_bin($2, hour, $1), hour DESC

-- name: came
-- Snapshots that came into each class since $1.
SELECT h->>'storage_class' AS storage_class, sum((h->>'came')::bigint)::bigint AS came
  FROM sagaz_tiering.history, json_array_elements(holdings) h
 WHERE hour >= $1 AND h->>'tier' = 'cold' GROUP BY 1
