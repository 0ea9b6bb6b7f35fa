-- name: server_time
SELECT clock_timestamp()

-- name: is_read_only
-- Whether nothing can be written, as on a standby or a primary that was fenced.
SELECT current_setting('transaction_read_only')::bool
