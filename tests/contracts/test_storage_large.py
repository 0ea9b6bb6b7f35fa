"""Contexts of megabytes: whole, and with an event loop that goes on meanwhile; the same for every storage."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from random import Random
from typing import Any

import pytest
from support.snapshots import SAGA, make
from support.stores import Place
from support.threads import OfLarge


@cache
def large_context(kind: str) -> dict[str, Any]:
    """About 2 MB of JSON: half of it in long texts, half in many small values; part of it does not compress."""
    shuffle = Random(kind)
    texts = [shuffle.randbytes(250_000).hex(), "Überweisung 東京 " * 26_000]
    rows: list[Any] = [
        {"id": at, "sku": f"A{shuffle.getrandbits(60):x}", "price": at / 7, "tags": ["a", None, True], "text": "x" * 20}
        for at in range(9_600)
    ]
    if kind == "typed":
        moment = datetime(2026, 3, 1, tzinfo=UTC)
        for row in rows[:2_400]:
            row["at"], row["sum"] = moment + timedelta(seconds=row["id"]), Decimal(row["id"]) / 8
    return {"texts": texts, "rows": rows}


@pytest.mark.parametrize("kind_of_context", ["plain", "typed"])
async def test_megabytes_are_worked_on_off_the_event_loop(
    place: Place, kind_of_context: str, of_large: OfLarge
) -> None:
    """Saving, getting and listing leave JSON and compression to other threads than the loop's."""
    snapshot = make(1, context=large_context(kind_of_context))
    storage = await place.open()
    await storage.save_snapshot(snapshot)
    assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
    assert await storage.get_latest_snapshot(SAGA) == snapshot
    assert await storage.list_snapshots(SAGA) == [snapshot]
    assert of_large.names() >= {"dumps", "loads"}
    assert threading.get_ident() not in of_large.threads()
