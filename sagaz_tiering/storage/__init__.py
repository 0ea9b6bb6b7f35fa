"""Where snapshots are kept."""
