-- What is noted as Redis' alone and has expired: a note may come later than its snapshot was removed.
CREATE INDEX hot_saves_expiry ON sagaz_tiering.hot_saves (expires_at, snapshot_id) WHERE expires_at IS NOT NULL;
