"""A saga application: an order that reserves, charges and ships, on any storage of sagaz-tiering.

    python examples/shop.py [--storage URL]        # runs one order that fails, and says how to replay it

`make_saga` is what `sagaz-tiering replay run --saga examples.shop:make_saga` needs.
"""

from __future__ import annotations

import argparse
import asyncio
from decimal import Decimal
from typing import Any

from sagaz.core.saga import Saga

from sagaz_tiering import ReplayConfig, SnapshotStrategy

CONFIG = ReplayConfig(enable_snapshots=True, snapshot_strategy=SnapshotStrategy.BEFORE_EACH_STEP, retention_days=2555)


class CardDeclined(Exception):
    """The bank said no."""


class OrderSaga(Saga):
    """reserve_stock -> charge_card -> book_parcel; each step is undone if a later one fails."""

    def __init__(
        self, order: dict[str, Any] | None = None, storage: Any = None, config: ReplayConfig | None = None
    ) -> None:
        super().__init__(name="orders", replay_config=config or CONFIG, snapshot_storage=storage)
        self._order = order or {}

    async def build(self) -> None:
        """Add the steps and what they start from."""
        for key, value in self._order.items():
            self.context.set(key, value)
        await self.add_step("reserve_stock", reserve_stock, release_stock, max_retries=0)
        await self.add_step("charge_card", charge_card, refund, max_retries=0)
        await self.add_step("book_parcel", book_parcel, max_retries=0)


async def reserve_stock(_context: Any) -> dict[str, Any]:
    """Always works."""
    return {"hold": "H-1"}


async def charge_card(context: Any) -> dict[str, Any]:
    """Works only with a good card."""
    if context.get("card") == "expired":
        raise CardDeclined("the card has expired")
    return {"charged": context.get("amount")}


async def book_parcel(_context: Any) -> dict[str, Any]:
    """Always works."""
    return {"parcel": "P-1"}


async def release_stock(_result: Any, _context: Any) -> None:
    """Undo reserve_stock."""


async def refund(_result: Any, _context: Any) -> None:
    """Undo charge_card."""


def make_saga(_name: str) -> OrderSaga:
    """What a replay resumes: the steps, without an order of its own."""
    return OrderSaga()


async def main(url: str) -> None:
    """One order whose card is declined; its snapshots stay."""
    from sagaz_tiering.app.storage_url import open_storage

    async with open_storage(url) as storage:
        saga = OrderSaga({"amount": Decimal("49.90"), "card": "expired"}, storage)
        await saga.build()
        result = await saga.execute()
        print(f"saga {saga.saga_id}: {result.status.value}: {result.error}")
        for snapshot in await storage.list_snapshots(saga.saga_id):
            print(f"  {snapshot.created_at:%H:%M:%S.%f}  {snapshot.step_name:<14} {snapshot.status}")
    print("replay it with a good card:")
    print(
        f"  sagaz-tiering replay run {saga.saga_id} --from-step charge_card --override card=good "
        f"--saga examples.shop:make_saga --storage {url}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="file://./shop-snapshots")
    asyncio.run(main(parser.parse_args().storage))
