"""What a walk sorts on disk."""

from __future__ import annotations

from random import Random

import pytest

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.tiered.sorted_ids import SortedIds


async def test_ids_come_in_order_and_once() -> None:
    """Also over several pages, whatever order they came in."""
    saved = [number.to_bytes(16) for number in range(1, 12_001)]
    async with SortedIds() as ids:
        for _ in range(2):
            await ids.add(Random(1).sample(saved, len(saved)))
        assert [each async for each in ids.ids()] == saved


async def test_disk_without_room_is_told_with_what_to_do() -> None:
    """Not as a defect of this package."""
    async with SortedIds() as ids:
        await ids.run(lambda db: db.execute("PRAGMA max_page_count = 3"))
        with pytest.raises(ConfigError, match="full") as caught:
            await ids.add(number.to_bytes(16) for number in range(5_000))
    assert "TMPDIR" in caught.value.hint
