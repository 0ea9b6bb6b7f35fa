"""`PostgreSQLSnapshotStorage`: snapshots as rows that SQL can query."""
