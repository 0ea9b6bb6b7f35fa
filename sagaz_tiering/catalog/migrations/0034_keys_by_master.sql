-- Which master keys there are, without a walk over the keys that they wrap.
CREATE INDEX saga_keys_master ON sagaz_tiering.saga_keys (master_id);
