"""Save, get, list and delete: the same for every storage."""

from __future__ import annotations

from support.payload import saga

from sagaz_tiering.storage.base import SnapshotStorage


async def test_saved_snapshots_come_back(storage: SnapshotStorage) -> None:
    """By id, newest first, and as the latest."""
    snapshots = saga(1)
    for snapshot in snapshots:
        await storage.save_snapshot(snapshot)
    for snapshot in snapshots:
        assert await storage.get_snapshot(str(snapshot.snapshot_id)) == snapshot
    assert await storage.list_snapshots(snapshots[0].saga_id) == snapshots[::-1]
    assert await storage.get_latest_snapshot(snapshots[0].saga_id) == snapshots[-1]
