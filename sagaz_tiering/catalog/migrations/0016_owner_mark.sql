-- The bucket's mark moves on with the catalog, so that a copy of the database, or one that went back, falls behind.
ALTER TABLE sagaz_tiering.owner
    ADD COLUMN counter            bigint NOT NULL DEFAULT 0,
    ADD COLUMN nonces             uuid[] NOT NULL DEFAULT '{}',  -- the last ones, newest first
    ADD COLUMN moved_at           timestamptz,
    ADD COLUMN journal_number     bigint NOT NULL DEFAULT 0,     -- the newest that an entry of the journal has
    ADD COLUMN journal_confirmed  bigint NOT NULL DEFAULT 0,     -- the newest that the bucket's mark was seen to carry
    ADD COLUMN system_identifier  text NOT NULL DEFAULT '',      -- of the PostgreSQL that moved the mark last
    ADD COLUMN database_oid       bigint;
-- Entries of the code before are in the bucket under their entry_id: numbers go on behind the last of them.
UPDATE sagaz_tiering.owner SET journal_number =
    coalesce(pg_sequence_last_value(pg_get_serial_sequence('sagaz_tiering.journal', 'entry_id')), 0);
ALTER TABLE sagaz_tiering.journal ADD COLUMN number bigint;      -- NULL: none yet; it is what the bucket knows it by
