"""A saga whose snapshots are saved, moved into a pack and read from there, on servers that this script starts itself.

pip install 'sagaz-tiering[embedded,sagaz]'
python quickstart.py
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import sagaz

from sagaz_tiering import TieredSnapshotStorage, capture, saga_uuid

CONFIG = Path("quickstart.yaml")
CONFIGURATION = """\
embedded: {data_dir: quickstart-data, s3: false}     # PostgreSQL and Redis, started with each process
tiers:
  hot: {url: embedded}
  cold: {url: "file://quickstart-data/cold"}         # a folder that behaves like S3
catalog: {url: embedded}
policies:
  - {name: all, match: {}, move: [{to: STANDARD_IA, after: 1s}], linger: 1s, even_if_costlier: true, retain: forever}
"""


class Order(sagaz.Saga):
    """Two steps; a real one calls your services."""

    saga_name = "orders"

    @sagaz.action("reserve_stock")
    async def reserve_stock(self, ctx: dict[str, Any]) -> dict[str, Any]:
        """Returns what the next steps and every later snapshot know."""
        return {"hold": "H-1"}

    @sagaz.action("charge_card", depends_on=["reserve_stock"])
    async def charge_card(self, ctx: dict[str, Any]) -> dict[str, Any]:
        """With what the step before found."""
        return {"charged": ctx["amount"], "for": ctx["hold"]}


async def main() -> None:
    """Save, look, move, read again."""
    async with TieredSnapshotStorage.from_config(CONFIG) as storage:
        order = Order()
        capture(order, storage)
        result = await order.run({"amount": 49.9})
        saga_id = saga_uuid(result["saga_id"])
        for ref in await storage.timeline(saga_id):
            print(f"{ref.step_name:<15} {ref.status:<10} is in the tier {ref.tier}", flush=True)
        await asyncio.sleep(1)
        command = [sys.executable, "-m", "sagaz_tiering", "job", "age", "--once", "--config", str(CONFIG)]
        await asyncio.to_thread(subprocess.run, command, check=True)  # what a daemon does every five minutes
        for ref in await storage.timeline(saga_id):
            print(f"{ref.step_name:<15} {ref.status:<10} is in the tier {ref.tier} {ref.storage_class}")
        latest = await storage.get_latest_snapshot(saga_id)
        assert latest is not None
        print(f"read from the pack: {latest.context}")
    print(f"next: sagaz-tiering explain {saga_id} --config {CONFIG}")


if __name__ == "__main__":
    if not CONFIG.exists():
        CONFIG.write_text(CONFIGURATION, encoding="utf-8")
    asyncio.run(main())
