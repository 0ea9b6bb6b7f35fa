"""The job that moves due snapshots into packs."""
