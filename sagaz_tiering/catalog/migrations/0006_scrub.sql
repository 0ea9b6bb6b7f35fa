-- What failed again and again, or is not what it should be: visible, and left alone by the jobs once QUARANTINED.
CREATE TABLE sagaz_tiering.quarantine (
    kind        text NOT NULL,             -- pack, object or snapshot
    item        text NOT NULL,             -- object key or snapshot id
    reason      text NOT NULL,
    attempts    integer NOT NULL,
    state       text NOT NULL CHECK (state IN ('FAILING', 'QUARANTINED', 'DROPPED')),
    first_seen  timestamptz NOT NULL,
    last_seen   timestamptz NOT NULL,
    PRIMARY KEY (kind, item)
);
ALTER TABLE sagaz_tiering.packs ADD COLUMN scrubbed_at timestamptz;
CREATE INDEX packs_scrubbed ON sagaz_tiering.packs (scrubbed_at NULLS FIRST, pack_id) WHERE state = 'ACTIVE';
