-- What PostgreSQL itself keeps of an erased saga: dead rows until a vacuum. Refused: the catalog's role may not vacuum.
ALTER TABLE sagaz_tiering.erasures ADD COLUMN vacuumed_at timestamptz;
ALTER TABLE sagaz_tiering.erasures ADD COLUMN vacuum_refused boolean NOT NULL DEFAULT false;
