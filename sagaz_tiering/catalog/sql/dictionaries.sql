-- name: data
SELECT data FROM sagaz_tiering.dictionaries WHERE dictionary_id = $1

-- name: current
-- Of each name the one that was trained last.
SELECT DISTINCT ON (saga_name) saga_name, dictionary_id, trained_at, sagas, saves, octet_length(data) AS bytes
  FROM sagaz_tiering.dictionaries WHERE saga_name IS NOT NULL
 ORDER BY saga_name, trained_at DESC, dictionary_id

-- name: digests
SELECT digest FROM sagaz_tiering.dictionaries

-- name: altered
SELECT digest FROM sagaz_tiering.dictionaries WHERE sha256(data) <> digest

-- name: repair
UPDATE sagaz_tiering.dictionaries SET data = $2 WHERE digest = $1

-- name: publish
-- Unless the name got another one after $7; the same one found nameless before gets its name.
INSERT INTO sagaz_tiering.dictionaries AS d (dictionary_id, digest, saga_name, trained_at, sagas, saves, data)
SELECT $1, $2, $3, $4, $5, $6, $8
 WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.dictionaries WHERE saga_name = $3 AND trained_at > $7)
ON CONFLICT (dictionary_id) DO UPDATE
   SET saga_name = excluded.saga_name, trained_at = excluded.trained_at, sagas = excluded.sagas, saves = excluded.saves
 WHERE d.saga_name IS NULL

-- name: enter
INSERT INTO sagaz_tiering.dictionaries (dictionary_id, digest, trained_at, data) VALUES ($1, $2, $3, $4)
ON CONFLICT (dictionary_id) DO NOTHING

-- name: name_them
-- What a pack's frames say, of those whose name is not known.
UPDATE sagaz_tiering.dictionaries d SET saga_name = v.saga_name
  FROM unnest($1::bytea[], $2::text[]) AS v (dictionary_id, saga_name)
 WHERE d.dictionary_id = v.dictionary_id AND d.saga_name IS NULL

-- name: durable_values
-- Durable copies of a few sagas, in an order that says nothing about them.
SELECT saga_id, value FROM sagaz_tiering.saga_snapshots
 WHERE saga_id >= $1 AND octet_length(value) <= $3 ORDER BY saga_id, created_at DESC LIMIT $2
