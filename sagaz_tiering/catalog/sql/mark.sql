-- name: look
-- The row, what PostgreSQL this is, and whether there are packs whose objects must be somewhere.
SELECT catalog_id, counter, nonces, moved_at, journal_number, journal_confirmed, system_identifier, database_oid,
       coalesce(extract(epoch FROM clock_timestamp() - moved_at), 0)::float8 AS age_s, clock_timestamp() AS now,
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS here_oid,
       EXISTS (SELECT 1 FROM sagaz_tiering.packs WHERE state IN ('UPLOADING', 'ACTIVE', 'RETIRING')) AS has_packs,
       has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'EXECUTE') AS may_ask
  FROM sagaz_tiering.owner

-- name: system
-- What `initdb` gave this cluster, its replicas and its file copies.
SELECT system_identifier::text FROM pg_control_system()

-- name: lock
-- Processes of one catalog take turns; no row: another one was first.
SELECT 1 FROM sagaz_tiering.owner WHERE counter = $1 FOR UPDATE

-- name: number
-- Entries of the journal get the next numbers, in their order.
WITH todo AS (SELECT entry_id, row_number() OVER (ORDER BY entry_id) AS place
                FROM (SELECT entry_id FROM sagaz_tiering.journal
                       WHERE published_at IS NULL AND number IS NULL ORDER BY entry_id LIMIT $1) AS first),
     numbered AS (UPDATE sagaz_tiering.journal j SET number = o.journal_number + t.place
                    FROM todo t, sagaz_tiering.owner o WHERE j.entry_id = t.entry_id RETURNING 1)
UPDATE sagaz_tiering.owner SET journal_number = journal_number + (SELECT count(*) FROM numbered)

-- name: move
UPDATE sagaz_tiering.owner
   SET counter = counter + 1, nonces = ($1::uuid || nonces)[1:$2], moved_at = clock_timestamp(),
       system_identifier = $3,
       database_oid = (SELECT oid::bigint FROM pg_database WHERE datname = current_database())
RETURNING catalog_id, counter, nonces, moved_at, journal_number, journal_confirmed, system_identifier, database_oid,
          0::float8 AS age_s, clock_timestamp() AS now, database_oid AS here_oid,
          EXISTS (SELECT 1 FROM sagaz_tiering.packs WHERE state IN ('UPLOADING', 'ACTIVE', 'RETIRING')) AS has_packs

-- name: confirm
UPDATE sagaz_tiering.owner SET journal_confirmed = greatest(journal_confirmed, $1)

-- name: take_mark
-- $1 counter, $2 nonce and $3 newest journal number of the bucket's mark.
UPDATE sagaz_tiering.owner
   SET counter = greatest(counter, $1),
       nonces = CASE WHEN $2::uuid IS NULL THEN nonces ELSE ($2::uuid || nonces)[1:$4] END,
       journal_number = greatest(journal_number, $3), system_identifier = '', database_oid = NULL

-- name: renumber
UPDATE sagaz_tiering.journal SET number = NULL WHERE published_at IS NULL

-- name: newest_packs
SELECT object_key FROM sagaz_tiering.packs WHERE state = 'ACTIVE' ORDER BY pack_id DESC LIMIT $1
