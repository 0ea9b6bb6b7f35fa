-- What the packs do not tell: holds, releases, deletions. Copied to the bucket, so that a rebuilt catalog knows it.
CREATE TABLE sagaz_tiering.journal (
    entry_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL,
    kind          text NOT NULL,
    body          json NOT NULL,
    published_at  timestamptz
);
CREATE INDEX journal_unpublished ON sagaz_tiering.journal (entry_id) WHERE published_at IS NULL;
