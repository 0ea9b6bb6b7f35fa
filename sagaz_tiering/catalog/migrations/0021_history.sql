-- What was where at the full hours, and what it cost: one row an hour, kept two years.
CREATE TABLE sagaz_tiering.history (
    hour      timestamptz PRIMARY KEY,
    holdings  json NOT NULL    -- a list: tier, storage_class, snapshots, packs, bytes, usd_per_month, came (see Holding)
);
