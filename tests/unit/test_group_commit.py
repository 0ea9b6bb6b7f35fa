"""Inserts that arrive together share transactions, and nothing else: each caller has its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sagaz_tiering.catalog import group_commit
from sagaz_tiering.catalog.group_commit import GroupCommit
from sagaz_tiering.errors import CatalogUnavailable


class Ledger:
    """Commits numbers, doubled; negative ones are refused, and nothing is while it is away or `gate` is shut."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def commit(self, items: Sequence[int]) -> list[int]:
        """All or nothing."""
        self.batches.append(list(items))
        await self.gate.wait()
        if self.away:
            raise CatalogUnavailable("away", hint="come back")
        if any(item < 0 for item in items):
            raise ValueError(f"one of {items} is negative")
        return [2 * item for item in items]


async def turns(count: int = 5) -> None:
    """Let everyone go on as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_lone_insert_waits_for_nobody() -> None:
    """It is handed over in the next turn of the loop."""
    ledger = Ledger()
    group = GroupCommit(ledger.commit)
    assert await group.put(1, 10, seconds=300) == 2
    assert ledger.batches == [[1]]


async def test_inserts_of_one_turn_go_together() -> None:
    """Sixty-four callers, one commit, each its own result."""
    ledger = Ledger()
    group = GroupCommit(ledger.commit)
    assert await asyncio.gather(*(group.put(n, 10, seconds=300) for n in range(64))) == [2 * n for n in range(64)]
    assert ledger.batches == [list(range(64))]


async def test_what_comes_during_a_commit_is_the_next_batch() -> None:
    """With every lane busy, the rest collects."""
    ledger = Ledger()
    ledger.gate.clear()
    group = GroupCommit(ledger.commit)
    calls = []
    for number in range(20):
        calls.append(asyncio.create_task(group.put(number, 10, seconds=300)))
        await turns()
    assert len(ledger.batches) == group_commit.COMMITTERS
    ledger.gate.set()
    assert await asyncio.gather(*calls) == [2 * n for n in range(20)]
    assert len(ledger.batches) == group_commit.COMMITTERS + 1


async def test_straggler_behind_many_goes_with_the_next_ones() -> None:
    """It waits a moment for them, and for no more than a moment where none come."""
    ledger = Ledger()
    group = GroupCommit(ledger.commit)
    await asyncio.gather(*(group.put(n, 10, seconds=300) for n in range(64)))
    early = asyncio.create_task(group.put(64, 10, seconds=300))
    await turns()
    await asyncio.gather(early, *(group.put(n, 10, seconds=300) for n in range(65, 128)))
    assert ledger.batches[1:] == [list(range(64, 128))]
    assert await group.put(128, 10, seconds=300) == 256
    assert ledger.batches[2:] == [[128]]


async def test_refused_item_fails_alone() -> None:
    """The others of its batch are committed, and only its caller is told."""
    ledger = Ledger()
    group = GroupCommit(ledger.commit)
    found = await asyncio.gather(*(group.put(n, 10, seconds=300) for n in (1, -2, 3, -4)), return_exceptions=True)
    assert [found[0], found[2]] == [2, 6]
    assert [str(found[1]), str(found[3])] == ["one of [-2] is negative", "one of [-4] is negative"]


async def test_server_that_is_away_is_told_to_all_at_once() -> None:
    """Nothing is asked item by item, and no two callers share an exception."""
    ledger = Ledger()
    ledger.away = True
    group = GroupCommit(ledger.commit)
    found = await asyncio.gather(*(group.put(n, 10, seconds=300) for n in range(3)), return_exceptions=True)
    assert [(type(error), str(error), error.hint) for error in found] == [(CatalogUnavailable, "away", "come back")] * 3
    assert len({id(error) for error in found}) == 3
    assert len(ledger.batches) == 1
    ledger.away = False
    assert await group.put(4, 10, seconds=300) == 8


async def test_cancelled_caller_harms_nobody() -> None:
    """Its item is left out where it was not sent yet; the others of a batch under way get their results."""
    ledger = Ledger()
    ledger.gate.clear()
    group = GroupCommit(ledger.commit)
    sent = [asyncio.create_task(group.put(n, 10, seconds=300)) for n in range(3)]
    await turns()
    last = [asyncio.create_task(group.put(n, 10, seconds=300)) for n in range(3, 6)]
    await turns()
    waiting = [asyncio.create_task(group.put(n, 10, seconds=300)) for n in range(6, 9)]
    await turns()
    for task in (sent[1], waiting[1]):
        task.cancel()
    await turns()
    ledger.gate.set()
    assert await asyncio.gather(sent[0], sent[2], *last, waiting[0], waiting[2]) == [0, 4, 6, 8, 10, 12, 16]
    assert ledger.batches == [[0, 1, 2], [3, 4, 5], [6, 8]]


async def test_each_insert_has_its_own_deadline() -> None:
    """What is not sent by then is left out, whatever others may wait for; what comes later has a deadline as well."""
    ledger = Ledger()
    ledger.gate.clear()
    group = GroupCommit(ledger.commit)
    patient = asyncio.create_task(group.put(1, 10, seconds=300))
    await turns()
    also = asyncio.create_task(group.put(2, 10, seconds=300))
    await turns()
    for number in (3, 4):  # both committers are busy: it is not sent
        with pytest.raises(TimeoutError):
            await group.put(number, 10, seconds=0.01)
    given_up = await asyncio.gather(*(group.put(n, 10, seconds=n / 1000) for n in (6, 5)), return_exceptions=True)
    assert [type(error) for error in given_up] == [TimeoutError] * 2
    ledger.gate.set()
    assert [await patient, await also] == [2, 4]
    assert await group.put(7, 10, seconds=300) == 14
    assert ledger.batches == [[1], [2], [7]]


async def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows and by bytes; what is larger than a batch goes by itself."""
    monkeypatch.setattr(group_commit, "MAX_ROWS", 3)
    monkeypatch.setattr(group_commit, "MAX_BYTES", 100)
    ledger = Ledger()
    group = GroupCommit(ledger.commit)
    sizes = [10, 10, 10, 10, 500, 60, 60]
    assert await asyncio.gather(*(group.put(n, size, seconds=300) for n, size in enumerate(sizes))) == [
        2 * n for n in range(7)
    ]
    assert ledger.batches == [[0, 1, 2], [3], [4], [5], [6]]
