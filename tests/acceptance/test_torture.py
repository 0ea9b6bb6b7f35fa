"""`torture`: it holds under kills, and each thing that must hold makes it fail when it is broken behind its back."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.commands import cli

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.torture import run_torture
from sagaz_tiering.torture.model import KINDS, TURNS, Model, SagaKey, Scenario, Worker

Interference = Callable[[Runtime], Awaitable[None]]


async def test_short_torture_holds() -> None:
    """As an operator runs it: processes are killed, every acknowledged snapshot is there, exit code 0."""
    answer = await cli("torture", "--seconds", 6, "--seed", 7, "--snapshots", 600, "--json")
    assert answer.code == 0, answer.out + answer.err
    document = answer.document
    assert document["ok"] is True
    assert document["seed"] == 7
    counts = document["counts"]
    assert counts["saves_acknowledged"] > 20
    assert counts["savers_killed"] >= 2
    assert counts["daemons_killed"] >= 2
    assert counts["reads"] > counts["sagas_compared"] > 0


async def _forget_in_redis(runtime: Runtime) -> None:
    """What is acknowledged by Redis alone."""
    durable = {row[0] for row in await runtime.db.fetch("SELECT snapshot_id FROM sagaz_tiering.saga_snapshots")}
    gone = [each async for _, each, _ in runtime.hot.snapshots() if each not in durable]
    assert gone
    for snapshot_id in gone:
        await runtime.hot.delete(snapshot_id, until_us=2**52)


async def _lose_a_pack(runtime: Runtime) -> None:
    row = await runtime.db.fetchrow("SELECT max(object_key) FROM sagaz_tiering.packs WHERE state = 'ACTIVE'")
    assert row is not None
    assert not await runtime.objects.delete([row[0]])


async def _lose_a_row(runtime: Runtime) -> None:
    await runtime.db.execute(
        "DELETE FROM sagaz_tiering.snapshots WHERE pack_id = (SELECT max(pack_id) FROM sagaz_tiering.snapshots)"
    )


async def _leave_a_stray(runtime: Runtime) -> None:
    key = "packs/2020/01/never/00000000-0000-4000-8000-000000000000.pack"
    await runtime.objects.put(key, b"x", storage_class=StorageClass.STANDARD, sha256=hashlib.sha256(b"x").digest())


@pytest.mark.parametrize(
    ("phase", "interfere", "word"),
    [
        ("settled", _forget_in_redis, "acknowledged"),
        ("settled", _lose_a_row, "acknowledged"),
        ("months later", _lose_a_pack, "snapshot"),
        ("collected", _leave_a_stray, "bucket holds"),
    ],
)
async def test_torture_fails_when_it_does_not_hold(phase: str, interfere: Interference, word: str) -> None:
    """A snapshot, a row or a pack taken away behind its back, or one put there: exit code 1, and which.

    By this seed the first sagas of both savers are in Redis alone and in packs, however little a busy machine saves.
    """

    async def at(name: str, runtime: Runtime) -> None:
        if name == phase:
            await interfere(runtime)

    outcome = await run_torture(seconds=1, seed=2, snapshots=100, say=lambda _: None, interfere=at)
    assert outcome.exit_code == 1
    assert word in outcome.difference
    assert outcome.to_dict()["ok"] is False


SCRIPT = Scenario(seed=1, begun=datetime(2026, 1, 1, tzinfo=UTC), span=timedelta(seconds=10))
WORKER = Worker(0, 0)


def test_what_a_worker_saves_follows_from_the_seed() -> None:
    """Two processes agree on it; another seed gives something else; the last turn saves the middle step again."""
    turns = [SCRIPT.snapshot(WORKER, turn) for turn in range(TURNS)]
    again = Scenario(seed=1, begun=SCRIPT.begun, span=SCRIPT.span)
    assert [again.snapshot(WORKER, turn) for turn in range(TURNS)] == turns
    assert Scenario(seed=2, begun=SCRIPT.begun, span=SCRIPT.span).snapshot(WORKER, 0) != turns[0]
    assert turns[3].snapshot_id == turns[1].snapshot_id
    assert turns[3].context != turns[1].context
    assert {SCRIPT.kind(SagaKey(WORKER, number)).name for number in range(100)} == {kind.name for kind in KINDS}


def test_model_allows_what_may_be_and_nothing_else() -> None:
    """Acknowledged: exactly that; one save under way: either; beyond it: nothing; removed or expired: nothing."""
    model = Model(script=SCRIPT)
    saga = SagaKey(WORKER, next(n for n in range(100) if SCRIPT.kind(SagaKey(WORKER, n)).name == "brief"))
    first = saga.number * TURNS
    turns = [SCRIPT.snapshot(WORKER, first + turn) for turn in range(TURNS)]
    ids, now = model.ids(saga), SCRIPT.begun - timedelta(seconds=1)
    model.acknowledged[WORKER] = first
    assert model.allowed(saga, now) == {ids[0]: [turns[0]], ids[1]: [None, turns[1]], ids[2]: [None]}
    model.running.add(0)
    assert model.allowed(saga, now)[ids[2]] == [None, turns[2]]
    model.running.clear()
    model.acknowledged[WORKER] = first + 2
    assert model.allowed(saga, now) == {ids[0]: [turns[0]], ids[1]: [turns[1], turns[3]], ids[2]: [turns[2]]}
    assert not model.is_complete(saga)
    model.acknowledged[WORKER] = first + 3
    assert model.allowed(saga, now)[ids[1]] == [turns[3]]
    assert model.is_complete(saga)
    model.removed.add(ids[0])
    assert model.allowed(saga, now)[ids[0]] == [None]
    assert set(map(tuple, model.allowed(saga, now + timedelta(days=1)).values())) == {(None,)}
