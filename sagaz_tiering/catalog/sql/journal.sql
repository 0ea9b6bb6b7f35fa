-- name: append
INSERT INTO sagaz_tiering.journal (at, kind, body) VALUES ($1, $2, $3)

-- name: any_unpublished
SELECT EXISTS (SELECT 1 FROM sagaz_tiering.journal WHERE published_at IS NULL)

-- name: unpublished
-- Entries that have their number, the lowest first.
SELECT number, at, kind, body FROM sagaz_tiering.journal
 WHERE published_at IS NULL AND number IS NOT NULL ORDER BY number LIMIT $1

-- name: published
UPDATE sagaz_tiering.journal SET published_at = $2
 WHERE number = ANY($1::bigint[]) AND published_at IS NULL

-- name: prune
DELETE FROM sagaz_tiering.journal WHERE published_at < $1
