-- Leases of `age`, each with its epoch, that were held as the run began: their frames may be built already (NULL: not noted).
ALTER TABLE sagaz_tiering.reindexing ADD COLUMN packing text[];
