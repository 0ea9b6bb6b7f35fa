-- Pages of the holds in force, oldest first; and what was ever held of some sagas, for exports.
CREATE INDEX holds_placed ON sagaz_tiering.holds (placed_at, hold_id);
CREATE INDEX hold_log_saga ON sagaz_tiering.hold_log (saga_id, entry_id);
