"""Research on a FilesystemSnapshotStorage: a whole workflow, from a declared saga to the analysis of its snapshots.

python examples/research.py [--folder FOLDER]        # default: one that is gone at the end
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from sagaz import Saga, action, compensate  # type: ignore[import-untyped]  # sagaz ships no types

from sagaz_tiering import FilesystemSnapshotStorage, InMemorySnapshotStorage, ReplayConfig, SnapshotStrategy, capture

logging.getLogger("sagaz").setLevel(logging.CRITICAL)  # it logs every step


class ResearchSaga(Saga):  # type: ignore[misc]
    """Declared with decorators. sagaz 1.5.0 itself captures nothing of such a saga; `capture` does."""

    saga_name = "research"

    @action(name="step1")  # type: ignore[untyped-decorator]
    async def process_data(self, ctx: Any) -> dict[str, Any]:
        """Some work."""
        return {"processed": ctx.get("experiment_id")}

    @compensate(for_step="step1")  # type: ignore[untyped-decorator]
    async def rollback_processing(self, result: Any, ctx: Any) -> None:
        """Undo it."""

    @action(name="step2", depends_on=["step1"])  # type: ignore[untyped-decorator]
    async def publish(self, ctx: Any) -> dict[str, Any]:
        """More work."""
        return {"published": True}


async def main(folder: Path) -> None:
    """Execute, then analyze."""
    storage = FilesystemSnapshotStorage(
        base_path=folder / "research-snapshots",
        enable_compression=False,
        pretty_json=True,
    )
    config = ReplayConfig(
        enable_snapshots=True,
        snapshot_strategy=SnapshotStrategy.BEFORE_EACH_STEP,
        retention_days=30,
    )
    async with storage:
        saga, saga_id = ResearchSaga(), str(uuid4())
        capture(saga, storage, config)
        result = await saga.run({"experiment_id": "exp-001"}, saga_id)
        print(f"{saga.saga_name}: {sorted(result)}")

        info = storage.get_storage_info()
        print(f"Captured {info['total_snapshots']} snapshots of {info['total_sagas']} sagas")
        print(f"Storage size: {info['total_size_mb']} MB ({info['total_size_bytes']} bytes)")
        print(f"Replays: {info['total_replays']}, compression: {info['compression_enabled']}, in {info['base_path']}")

        snapshots = await storage.list_snapshots(saga_id)
        for snapshot in snapshots:
            print(f"Step: {snapshot.step_name}, Status: {snapshot.status}")

    # Later, without any library: jq '.' research-snapshots/snapshots/{saga_id}/{snapshot_id}.json
    for path in sorted((folder / "research-snapshots" / "snapshots" / saga_id).iterdir()):
        document = json.loads(path.read_text(encoding="utf-8"))
        print(f"{path.name}: {document['step_name']} {document['context']['experiment_id']}")

    test_storage = InMemorySnapshotStorage()  # much faster, gone with the process
    again = ResearchSaga()
    capture(again, test_storage, config)
    await again.run({"experiment_id": "exp-002"}, again_id := str(uuid4()))
    print(f"in memory: {len(await test_storage.list_snapshots(again_id))} snapshots")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args().folder
    if given:
        asyncio.run(main(given))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            asyncio.run(main(Path(temporary)))
