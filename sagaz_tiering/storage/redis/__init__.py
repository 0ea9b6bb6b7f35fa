"""`RedisSnapshotStorage`: snapshots in Redis with a time to live, on one server, Sentinel or Cluster."""
