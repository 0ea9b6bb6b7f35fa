"""One storage used from several event loops, threads and forked processes; the same for every storage."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars
from structlog.testing import capture_logs
from support.elsewhere import in_process_that_forks, in_thread
from support.mixed_use import Told, mixed_use
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, make, number, replay, save_failures
from support.stores import Ability, Place, open_storage

from sagaz_tiering.errors import NaiveTimestamp, NotSerializable, WrongEventLoop
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

pytestmark = pytest.mark.guarantee("G13")


async def every(walk: AsyncIterator[Any]) -> list[Any]:
    """All of it."""
    return [item async for item in walk]


CALLS: dict[str, tuple[Callable[[SnapshotStorage], Awaitable[Any]], Any]] = {
    "save": (lambda s: s.save_snapshot(make(3, saga_id=OTHER_SAGA)), None),
    "get": (lambda s: s.get_snapshot(number(1)), make(1)),
    "latest": (lambda s: s.get_latest_snapshot(SAGA), make(2)),
    "by-step": (lambda s: s.get_latest_snapshot(SAGA, before_step="step_1"), make(1)),
    "at-time": (lambda s: s.get_snapshot_at_time(saga_id=SAGA, timestamp=make(1).created_at), make(1)),
    "list": (lambda s: s.list_snapshots(SAGA, limit=5), [make(2), make(1)]),
    "sagas": (lambda s: every(s.saga_ids()), [OTHER_SAGA, SAGA]),
    "walk": (lambda s: every(s.iter_snapshots()), [make(3, saga_id=OTHER_SAGA), make(1), make(2)]),
    "save-replay": (lambda s: s.save_replay_log(replay(7)), None),
    "get-replay": (lambda s: s.get_replay_log(number(7)), replay(7).to_dict()),
    "list-replays": (lambda s: s.list_replays(SAGA), [replay(7).to_dict()]),
    "walk-replays": (lambda s: every(s.iter_replay_logs()), [replay(7).to_dict()]),
    "delete": (lambda s: s.delete_snapshot(number(3)), True),
    "expire": (lambda s: s.delete_expired_snapshots(), 0),
    "cleanup": (lambda s: s.cleanup_saga(SAGA), 2),
}


def serves_every_loop(place: Place) -> bool:
    """Whether it was made from options, and not from a client of the user's that belongs to one loop."""
    return "client" not in place.options


async def save_two(storage: SnapshotStorage) -> None:
    """At home."""
    for at in (1, 2):
        await storage.save_snapshot(make(at))


async def test_every_call_works_from_another_thread(place: Place) -> None:
    """On a loop of its own, while the storage's home goes on; or it says that it cannot, before anything is sent."""
    storage = await place.open()
    await save_two(storage)

    async def ask_all() -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for name, (call, _) in CALLS.items():
            try:
                answers[name] = await call(storage)
            except WrongEventLoop as exc:
                answers[name] = exc
        return answers

    answers = await in_thread(ask_all)
    if serves_every_loop(place):
        assert answers == {name: expected for name, (_, expected) in CALLS.items()}
        assert await storage.get_snapshot(number(1)) is None
    else:
        assert all(type(answer) is WrongEventLoop and answer.hint for answer in answers.values())
        assert await storage.list_snapshots(SAGA) == [make(2), make(1)]


async def test_everyone_gets_their_own_answers(place: Place) -> None:
    """Home and three threads, each with many calls at once for a snapshot of their own."""
    if not serves_every_loop(place):
        pytest.skip("a client of the user's belongs to one loop")
    storage = await place.open()
    await storage.save_snapshot(make(0))

    def ask(at: int) -> Callable[[], Awaitable[None]]:
        async def one(turn: int) -> None:
            mine = make(at, context={"turn": turn})
            await storage.save_snapshot(mine)
            for _ in range(5):
                assert await storage.get_snapshot(number(at)) in [make(at, context={"turn": each}) for each in range(8)]
                latest = await storage.get_latest_snapshot(SAGA, before_step=f"step_{at}")
                assert latest is not None
                assert latest.snapshot_id == number(at)

        async def all_at_once() -> None:
            await asyncio.gather(*map(one, range(8)))

        return all_at_once

    await asyncio.gather(ask(0)(), *(in_thread(ask(at)) for at in (1, 2, 3)))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_no_answer_is_foreign_in_mixed_use(place: Place) -> None:
    """Home, threads with loop after loop and forked processes, all at once; `benchmarks/loops.py` asks a million."""
    if not serves_every_loop(place):
        pytest.skip("a client of the user's belongs to one loop")
    answers = min(2 * place.crowd, 400)
    told = await mixed_use(await place.open(), answers, seed=7)
    assert sum(told.values(), Told()) == {"own": answers}


@pytest.mark.needs(Ability.OUTLIVES)
async def test_storage_serves_one_loop_after_the_other(place: Place) -> None:
    """As with `asyncio.run` for each request, several at once, opened by the first and closed by the last of them."""
    opening = open_storage(place.name, place.options, place.clock)
    storage = await in_thread(opening.__aenter__)

    def request(at: int) -> Callable[[], Awaitable[SagaSnapshot | None]]:
        async def save_and_get() -> SagaSnapshot | None:
            await storage.save_snapshot(make(at))
            return await storage.get_snapshot(number(at))

        return save_and_get

    for first in range(1, 10, 3):
        found = await asyncio.gather(*(in_thread(request(at)) for at in range(first, first + 3)))
        assert found == [make(at) for at in range(first, first + 3)]
    assert len(await in_thread(lambda: storage.list_snapshots(SAGA))) == 9

    async def close() -> None:
        await opening.__aexit__(None, None, None)

    await in_thread(close)


async def test_storage_is_closed_from_anywhere(place: Place) -> None:
    """Also while it is open in two places, and it opens again wherever it is asked next."""
    if not serves_every_loop(place):
        pytest.skip("a client of the user's belongs to one loop")
    storage = await place.open()
    await save_two(storage)

    async def get_and_close() -> SagaSnapshot | None:
        found = await storage.get_snapshot(number(1))
        await storage.close()
        await storage.close()
        return found

    for _ in range(2):
        assert await in_thread(get_and_close) == make(1)
        assert await storage.get_snapshot(number(2)) == make(2)
    assert await get_and_close() == make(1)
    assert await in_thread(get_and_close) == make(1)


async def test_block_that_ends_leaves_the_storage_to_others(place: Place) -> None:
    """A thread that leaves its `async with` does not close what another is still in."""
    if not serves_every_loop(place):
        pytest.skip("a client of the user's belongs to one loop")
    storage = await place.open()
    await save_two(storage)
    inside, may_leave = threading.Event(), threading.Event()

    async def stay() -> SagaSnapshot | None:
        try:
            async with storage:
                await storage.get_snapshot(number(1))
                inside.set()
                await asyncio.to_thread(may_leave.wait)
                return await storage.get_snapshot(number(1))
        finally:
            inside.set()  # where it fails, nobody waits for it

    async def visit() -> SagaSnapshot | None:
        async with storage:
            return await storage.get_snapshot(number(2))

    staying = asyncio.create_task(in_thread(stay))
    await asyncio.to_thread(inside.wait)
    try:
        assert await asyncio.gather(*(in_thread(visit) for _ in range(5))) == [make(2)] * 5
    finally:
        may_leave.set()
    assert await staying == make(1)


async def test_errors_and_context_cross_over(place: Place) -> None:
    """What is refused is refused in the same way, and logged with the caller's context."""
    storage = await place.open()
    await save_two(storage)

    async def fail() -> None:
        with bound_contextvars(request="r-1"), pytest.raises((NotSerializable, WrongEventLoop)):
            await storage.save_snapshot(make(4, context={"bad": object()}))
        with pytest.raises((NaiveTimestamp, WrongEventLoop)):
            await storage.get_snapshot_at_time(SAGA, BEGUN.replace(tzinfo=None))
        with pytest.raises((ValueError, WrongEventLoop)):
            await storage.list_snapshots(SAGA, limit=-1)

    reason = "NotSerializable" if serves_every_loop(place) else "WrongEventLoop"
    before = save_failures(reason)
    with capture_logs() as logs:
        await in_thread(fail)
    assert save_failures(reason) == before + 1
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["snapshot.save_failed"]


@pytest.mark.needs(Ability.OUTLIVES)
async def test_both_sides_of_a_fork_go_on(place: Place) -> None:
    """The child gets its own answers over connections of its own, and the parent keeps its: nothing touches them.

    Forked from a running loop as well as between two.
    """
    answers = await in_process_that_forks(place.name, place.options)
    assert answers == [{"child": [True] * 4, "parent": [True] * 65, "code": 0}] * 2
