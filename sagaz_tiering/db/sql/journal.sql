-- name: append
INSERT INTO sagaz_tiering.journal (at, kind, body) VALUES ($1, $2, $3)

-- name: unpublished
SELECT entry_id, at, kind, body FROM sagaz_tiering.journal WHERE published_at IS NULL ORDER BY entry_id LIMIT $1

-- name: published
UPDATE sagaz_tiering.journal SET published_at = $2 WHERE entry_id = ANY($1::bigint[])

-- name: prune
DELETE FROM sagaz_tiering.journal WHERE published_at < $1
