"""`FilesystemSnapshotStorage`: snapshots as readable JSON files, safe over crashes and several processes."""
