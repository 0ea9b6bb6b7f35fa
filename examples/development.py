"""Local development and debugging on a FilesystemSnapshotStorage, and snapshots of a failure.

python examples/development.py [--folder FOLDER]        # default: one that is gone at the end
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sagaz.core.saga import Saga  # type: ignore[import-untyped]  # sagaz ships no types

from sagaz_tiering import FilesystemSnapshotStorage, ReplayConfig, SagaSnapshot, SnapshotStrategy, capture

logging.getLogger("sagaz").setLevel(logging.CRITICAL)  # it logs every step


class PaymentSaga(Saga):  # type: ignore[misc]
    """Authorizes a payment, then captures it.

    sagaz 1.5.0 has no Saga(context=…, config=SagaConfig(replay_config=…)): the constructor takes `replay_config` and
    `snapshot_storage` themselves, what a saga starts from is put into `self.context`, and `build` is called by hand.
    """

    def __init__(self, start: dict[str, Any], storage: FilesystemSnapshotStorage, config: ReplayConfig) -> None:
        super().__init__(name="payments", replay_config=config, snapshot_storage=storage)
        self._start = start

    async def build(self) -> None:
        """The steps."""
        for key, value in self._start.items():
            self.context.set(key, value)
        await self.add_step(
            name="authorize_payment", action=self._authorize, compensation=self._cancel_authorization, max_retries=0
        )
        await self.add_step(name="capture_payment", action=self._capture, max_retries=0)

    async def _authorize(self, context: Any) -> dict[str, Any]:
        return {"authorized": context.get("amount")}

    async def _cancel_authorization(self, _result: Any, _context: Any) -> None:
        """Nothing to undo in an example."""

    async def _capture(self, context: Any) -> dict[str, Any]:
        if context.get("amount") > 1000:
            raise ValueError("over the limit of the card")
        return {"captured": context.get("amount")}


async def quick_start(folder: Path) -> None:
    """A snapshot before each step, in files for people."""
    storage = FilesystemSnapshotStorage(
        base_path=folder / "dev-snapshots",
        enable_compression=False,  # readable
        pretty_json=True,
    )
    async with storage:
        saga = PaymentSaga(
            {"amount": 100.0, "currency": "USD"},
            storage,
            ReplayConfig(enable_snapshots=True, snapshot_strategy=SnapshotStrategy.BEFORE_EACH_STEP),
        )
        await saga.build()
        result = await saga.execute()
        print(f"{saga.saga_id}: {result.status.value}")
    for path in sorted((folder / "dev-snapshots").rglob("*.json")):
        print(f"  {path.relative_to(folder)}")
    first = next((folder / "dev-snapshots" / "snapshots").rglob("*.json"))
    print("  " + first.read_text(encoding="utf-8").replace("\n", "\n  ").rstrip())


async def snapshot_of_a_failure(folder: Path) -> None:
    """sagaz 1.5.0 captures nothing by SnapshotStrategy.ON_FAILURE; `capture` does, and how the saga ended."""
    config = ReplayConfig(enable_snapshots=True, snapshot_strategy=SnapshotStrategy.ON_FAILURE)
    async with FilesystemSnapshotStorage(folder / "failures") as storage:
        saga = PaymentSaga({"amount": 5000.0}, storage, config)
        await saga.build()
        capture(saga)
        result = await saga.execute()
        print(f"ON_FAILURE: {result.status.value}")
        for found in reversed(await storage.list_snapshots(saga.saga_id)):
            print(f"captured: {found.step_name} {found.status} after {found.completed_steps}")


async def debug(folder: Path) -> None:
    """Every step, for a week."""
    debug_storage = FilesystemSnapshotStorage(folder / "debug-snapshots", enable_compression=False, pretty_json=True)
    config = ReplayConfig(
        enable_snapshots=True,
        snapshot_strategy=SnapshotStrategy.BEFORE_EACH_STEP,
        retention_days=7,  # clean up after debugging
    )
    async with debug_storage:
        saga = PaymentSaga({"amount": 5000.0}, debug_storage, config)
        await saga.build()
        await saga.execute()
        for snapshot in (await debug_storage.list_snapshots(saga.saga_id))[::-1]:
            assert snapshot.retention_until is not None
            days = (snapshot.retention_until - snapshot.created_at) / timedelta(days=1)
            print(f"debug: {snapshot.step_name} {sorted(snapshot.context)} kept for {days:.0f} days")


async def save_space(folder: Path) -> None:
    """The same snapshot plain and compressed; a directory may hold both."""
    sizes = {}
    for compressed in (False, True):
        storage = FilesystemSnapshotStorage(folder / f"compressed-{compressed}", enable_compression=compressed)
        async with storage:
            await storage.save_snapshot(
                SagaSnapshot.create(
                    saga_id=UUID(int=1),
                    saga_name="orders",
                    step_name="pick",
                    step_index=0,
                    status="executing",
                    context={"lines": [{"sku": f"A-{n}", "amount": n} for n in range(200)]},
                    completed_steps=[],
                )
            )
            sizes[compressed] = storage.get_storage_info()["total_size_bytes"]
    print(f"compression: {sizes[False]} bytes of JSON are {sizes[True]} bytes of .json.gz")


async def main(folder: Path) -> None:
    """All of it."""
    # The storage makes its directories; this is only for one that belongs to somebody else.
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o755)
    await quick_start(folder)
    await snapshot_of_a_failure(folder)
    await debug(folder)
    await save_space(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args().folder
    if given:
        asyncio.run(main(given))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            asyncio.run(main(Path(temporary)))
