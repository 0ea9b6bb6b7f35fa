"""Sagas with attributes, and where what they can be found by is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from sagaz_tiering.attributes import key_of
from sagaz_tiering.drivers.postgresql.queries import from_column, to_column
from sagaz_tiering.packs.attributes import parted
from sagaz_tiering.snapshot import SagaSnapshot
from support.tiers import Product

NAMESPACE = UUID("5a6a7a00-0000-4000-8000-00000000a77a")
ORDER_ID = {"name": "order_id", "path": "order.id"}
CUSTOMER = {"name": "customer", "path": "customers.name"}
ATTRIBUTES = (ORDER_ID, CUSTOMER)


def saga(name: str, number: int, at: datetime, contexts: list[dict[str, Any]]) -> list[SagaSnapshot]:
    """A saga of a snapshot for each context, oldest first; its ids stay the same from run to run."""
    saga_id = uuid5(NAMESPACE, f"{name}/{number}")
    return [
        SagaSnapshot(
            snapshot_id=uuid5(saga_id, str(step)),
            saga_id=saga_id,
            saga_name=name,
            step_name=f"step_{step}",
            step_index=step,
            status="executing",
            context=context,
            completed_steps=[],
            created_at=at,
        )
        for step, context in enumerate(contexts)
    ]


def order(number: int, *customers: str) -> dict[str, Any]:
    """The context of an order."""
    return {"order": {"id": f"A-{number}"}, "customers": [{"name": each} for each in customers], "noise": "n" * 200}


async def in_frames(shop: Product) -> dict[UUID, str]:
    """What the catalog says that each archived snapshot carries."""
    rows = await shop.runtime.db.fetch(
        "SELECT s.snapshot_id, f.attributes FROM sagaz_tiering.snapshots s JOIN sagaz_tiering.frames f"
        " USING (pack_id, frame_no)"
    )
    return {row["snapshot_id"]: parted(from_column(row["attributes"] or ""), [row["snapshot_id"]])[0] for row in rows}


async def found_by(shop: Product, token: str) -> set[UUID]:
    """The sagas that the catalog finds by a token."""
    rows = await shop.runtime.db.fetch(
        "SELECT g.saga_id FROM sagaz_tiering.saga_attributes a JOIN sagaz_tiering.sagas g USING (saga_id)"
        " WHERE a.key = $1 AND a.place = g.place",
        key_of(to_column(token)),
    )
    return {row["saga_id"] for row in rows}


def columns(saved: list[SagaSnapshot], shop: Product) -> Mapping[UUID, str]:
    """What each of these carries by the attributes in force."""
    of = shop.runtime.in_force.attributes.of
    return {each.snapshot_id: of(each.saga_name, each.context).column for each in saved}
