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

from sagaz import Saga, action, compensate  # type: ignore[import-untyped]  # sagaz ships no types
from sagaz.core import saga as engine  # type: ignore[import-untyped]

from sagaz_tiering import FilesystemSnapshotStorage, InMemorySnapshotStorage, ReplayConfig, SnapshotStrategy

logging.getLogger("sagaz").setLevel(logging.CRITICAL)  # it logs every step


class ResearchSaga(Saga):  # type: ignore[misc]
    """Declared with decorators. By itself sagaz 1.5.0 captures nothing of such a saga, whatever its configuration."""

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


class Captured(engine.Saga):  # type: ignore[misc]
    """The steps of a declared saga, one after the other, on the engine that captures snapshots."""

    def __init__(self, declared: Saga, context: dict[str, Any], config: ReplayConfig, storage: Any) -> None:
        super().__init__(name=declared.saga_name, replay_config=config, snapshot_storage=storage)
        self._declared = declared
        self._start = context

    async def build(self) -> None:
        """In an order that keeps `depends_on`."""
        for key, value in self._start.items():
            self.context.set(key, value)
        for level in self._declared.get_execution_order():
            for step in level:
                await self.add_step(step.step_id, step.forward_fn, step.compensation_fn, max_retries=step.max_retries)


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
        saga = Captured(ResearchSaga(), {"experiment_id": "exp-001"}, config, storage)
        await saga.build()
        result = await saga.execute()
        print(f"{result.saga_name}: {result.status.value}")

        info = storage.get_storage_info()
        print(f"Captured {info['total_snapshots']} snapshots of {info['total_sagas']} sagas")
        print(f"Storage size: {info['total_size_mb']} MB ({info['total_size_bytes']} bytes)")
        print(f"Replays: {info['total_replays']}, compression: {info['compression_enabled']}, in {info['base_path']}")

        snapshots = await storage.list_snapshots(saga.saga_id)
        for snapshot in snapshots:
            print(f"Step: {snapshot.step_name}, Status: {snapshot.status}")

    # Later, without any library: jq '.' research-snapshots/snapshots/{saga_id}/{snapshot_id}.json
    for path in sorted((folder / "research-snapshots" / "snapshots" / saga.saga_id).iterdir()):
        document = json.loads(path.read_text(encoding="utf-8"))
        print(f"{path.name}: {document['step_name']} {document['context']['experiment_id']}")

    test_storage = InMemorySnapshotStorage()  # much faster, gone with the process
    again = Captured(ResearchSaga(), {"experiment_id": "exp-002"}, config, test_storage)
    await again.build()
    await again.execute()
    print(f"in memory: {len(await test_storage.list_snapshots(again.saga_id))} snapshots")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args().folder
    if given:
        asyncio.run(main(given))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            asyncio.run(main(Path(temporary)))
