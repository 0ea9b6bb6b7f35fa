"""What a walk sorts on disk."""

from __future__ import annotations

import sys
from random import Random

import pytest

from sagaz_tiering.drivers.scratch import SortedIds
from sagaz_tiering.errors import ConfigError


async def test_ids_come_in_order_and_once() -> None:
    """Also over several pages, whatever order they came in."""
    saved = [number.to_bytes(16) for number in range(1, 12_001)]
    async with SortedIds() as ids:
        for _ in range(2):
            await ids.add(Random(1).sample(saved, len(saved)))
        assert [each async for each in ids.ids()] == saved


async def test_calls_that_follow_each_other_do_not_meet() -> None:
    """Each is on a thread of its own, and what one leaves is freed by another: SQLite called that misuse."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with SortedIds() as ids:
            for first in range(0, 60_000, 20):
                await ids.add(number.to_bytes(16) for number in range(first, first + 20))
            assert sum([1 async for _ in ids.ids()]) == 60_000
    finally:
        sys.setswitchinterval(before)


async def test_disk_without_room_is_told_with_what_to_do() -> None:
    """Not as a defect of this package."""
    async with SortedIds() as ids:
        await ids.run(lambda db: db.execute("PRAGMA max_page_count = 3"))
        with pytest.raises(ConfigError, match="full") as caught:
            await ids.add(number.to_bytes(16) for number in range(5_000))
    assert "TMPDIR" in caught.value.hint
