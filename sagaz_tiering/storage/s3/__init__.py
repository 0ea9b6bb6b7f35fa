"""`S3SnapshotStorage`: one object per snapshot, any number of writers, no shared index."""
