-- A lease can be renewed while transactions are under way that must not lose it: those hold its row by its key, which
-- only a new holder changes. Without this the renewal waited behind them, for as long as one followed the other.
CREATE UNIQUE INDEX leases_epoch ON sagaz_tiering.leases (name, epoch);
