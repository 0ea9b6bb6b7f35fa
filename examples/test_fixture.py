"""A storage of its own for each test.

pytest examples/test_fixture.py            # asyncio_mode = "auto", or the fixture is @pytest_asyncio.fixture
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from sagaz_tiering import FilesystemSnapshotStorage, SagaSnapshot


@pytest.fixture
async def snapshot_storage() -> AsyncIterator[FilesystemSnapshotStorage]:
    """Empty, and gone with the test; the storage is closed before its files go."""
    with tempfile.TemporaryDirectory() as tmp_dir:
        async with FilesystemSnapshotStorage(base_path=tmp_dir) as storage:
            yield storage


async def test_storage_is_empty_at_first(snapshot_storage: FilesystemSnapshotStorage) -> None:
    """Whatever other tests saved."""
    assert snapshot_storage.get_storage_info()["total_snapshots"] == 0


async def test_snapshot_comes_back_equal(snapshot_storage: FilesystemSnapshotStorage) -> None:
    """As the application's own tests would use it."""
    snapshot = SagaSnapshot.create(
        saga_id=uuid4(),
        saga_name="orders",
        step_name="charge_card",
        step_index=1,
        status="failed",
        context={"amount": 49.9},
        completed_steps=["reserve_stock"],
    )
    await snapshot_storage.save_snapshot(snapshot)
    assert await snapshot_storage.get_latest_snapshot(snapshot.saga_id) == snapshot
