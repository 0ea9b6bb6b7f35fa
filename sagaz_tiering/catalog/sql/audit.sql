-- name: begin
INSERT INTO sagaz_tiering.console_audit (at, who, address, action, subject, reason)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING audit_id

-- name: end
UPDATE sagaz_tiering.console_audit SET outcome = $2 WHERE audit_id = $1

-- name: page
-- The newest first, before an id.
SELECT audit_id, at, who, address, action, subject, reason, outcome FROM sagaz_tiering.console_audit
 WHERE audit_id < $1 ORDER BY audit_id DESC LIMIT $2
