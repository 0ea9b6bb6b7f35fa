-- Compression dictionaries: the one of a name that was trained last is what new data of that name are compressed with.
-- No row is ever deleted: whatever was compressed with one needs it.
CREATE TABLE sagaz_tiering.dictionaries (
    dictionary_id  bytea PRIMARY KEY,          -- the first 8 bytes of the digest
    digest         bytea NOT NULL,             -- sha256 of data; names the object in the bucket
    saga_name      text,                       -- NULL: found in the bucket, of which saga is not known (yet)
    trained_at     timestamptz NOT NULL,
    sagas          integer NOT NULL DEFAULT 0, -- so many it was trained from
    saves          real NOT NULL DEFAULT 0,    -- share of the bytes that it saved on others, compared with before
    data           bytea NOT NULL
);
ALTER TABLE sagaz_tiering.dictionaries ALTER COLUMN data SET STORAGE EXTERNAL;
