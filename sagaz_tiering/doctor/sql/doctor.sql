-- name: server
-- What matters about the server for what it acknowledges, and how full it is.
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer AS number,
       pg_is_in_recovery() AS standby, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('max_connections')::integer AS max_connections,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections

-- name: time
SELECT clock_timestamp()

-- name: missing_rights
-- Rights on the catalog's tables and sequences that this user lacks, by right.
SELECT r.privilege, 'TABLES' AS kind, string_agg(c.relname, ', ' ORDER BY c.relname) AS names
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r (privilege)
 WHERE n.nspname = 'sagaz_tiering' AND c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, r.privilege)
   AND NOT (c.relname = 'schema_migrations' AND r.privilege <> 'SELECT')
   AND NOT (c.relname = 'owner' AND r.privilege IN ('INSERT', 'DELETE'))
 GROUP BY r.privilege
 UNION ALL
SELECT 'USAGE', 'SEQUENCES', string_agg(c.relname, ', ' ORDER BY c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'sagaz_tiering' AND CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') END
HAVING count(*) > 0
 ORDER BY 2 DESC, 1

-- name: backend
-- Which server process answers: behind a pooler it is another one each time.
SELECT pg_backend_pid()
