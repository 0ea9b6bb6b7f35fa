-- Deletions are committed here first and then done in Redis: those that a crash left in Redis are finished by a job.
ALTER TABLE sagaz_tiering.tombstones ADD COLUMN in_redis boolean NOT NULL DEFAULT false;
CREATE INDEX tombstones_in_redis ON sagaz_tiering.tombstones (snapshot_id) WHERE in_redis;

-- How many snapshots an erasure met, however many copies there were of each (NULL: not counted then).
ALTER TABLE sagaz_tiering.erasures ADD COLUMN snapshots integer;
