"""Transfers between storages in memory: complete, idempotent, bounded, and counted to the last item."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import reduce
from operator import getitem
from random import Random
from typing import Any
from uuid import UUID

import pytest
from support.snapshots import SAGA, make, number, replay
from support.tiers import DAY, NOW
from support.transfers import Store, adds_up, contents, filled, saga_number, snapshots

from sagaz_tiering import transfer_snapshots
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import (
    BucketUnusable,
    ConfigError,
    CorruptRecord,
    HotTierUnavailable,
    InvalidSnapshot,
    SagazTieringError,
    SnapshotTooLarge,
)
from sagaz_tiering.sagaz_engine.imports.source import Remarks
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef, Tier
from sagaz_tiering.transfer import TransferProgress, TransferReport

NO_PATIENCE = timedelta(0)
SHORT = timedelta(seconds=5)


async def move(source: Any, target: Any, **options: Any) -> TransferReport:
    """A transfer at the tests' time that gives up at once; its report must add up."""
    report = await transfer_snapshots(
        source, target, **{"clock": VirtualClock(NOW), "patience": NO_PATIENCE, **options}
    )
    assert adds_up(report), report
    return report


async def test_transfer_copies_everything_and_counts_it() -> None:
    """Every snapshot and replay record arrives, equal to the type of every value, and is verified."""
    source, target = await filled(sagas=20, each=5, logs=7), Store()
    report = await move(source, target)
    assert await contents(target) == await contents(source)
    assert (report.snapshots.found, report.snapshots.copied, report.snapshots.verified) == (100, 100, 100)
    assert (report.replay_logs.found, report.replay_logs.copied, report.replay_logs.verified) == (7, 7, 7)
    assert (report.snapshots.sagas, report.exit_code, report.stopped, report.failed) == (20, 0, False, 0)
    assert report.snapshots.bytes > 100 * 50


async def test_transfer_saves_the_end_of_each_saga_first() -> None:
    """Before anything else of the saga is begun: rules of the target look at where a saga ends."""
    source, target = await filled(sagas=3, each=4), Store()
    of_saga: dict[UUID, list[tuple[bool, UUID]]] = {}
    ends = {number(3), number(7), number(11)}

    def note(snapshot: SagaSnapshot) -> None:
        others = of_saga.setdefault(snapshot.saga_id, [])
        others.append((snapshot.snapshot_id in ends, snapshot.snapshot_id))
        assert len(others) > 1 or snapshot.snapshot_id in ends
        assert len(others) == 1 or others[0][1] in target.saves

    target.before_save = note
    report = await move(source, target, concurrency=8)
    assert (report.snapshots.found, report.snapshots.copied, report.failed) == (12, 12, 0)
    assert len(of_saga) == 3


async def test_transfer_of_nothing_is_done() -> None:
    """An empty source gives an empty report."""
    report = await move(Store(), Store())
    assert (report.snapshots.found, report.replay_logs.found, report.exit_code) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_transfer_report_adds_up_whatever_is_there(seed: int) -> None:
    """Some equal, some different, some refused: the counts are what was made, and the target is as it should be."""
    random = Random(seed)
    source, target = Store(), Store()
    fates: dict[str, list[UUID]] = {"new": [], "same": [], "other": [], "refused": []}
    for snapshot in snapshots(sagas=random.randint(1, 12), each=random.randint(1, 6)):
        await source.save_snapshot(snapshot)
        fate = random.choice(list(fates))
        fates[fate].append(snapshot.snapshot_id)
        if fate == "same":
            await target.save_snapshot(snapshot)
        elif fate == "other":
            await target.save_snapshot(make(777, snapshot_id=snapshot.snapshot_id, saga_id=snapshot.saga_id))
        elif fate == "refused":
            target.failing[snapshot.snapshot_id] = SnapshotTooLarge("too large")
    target.saves.clear()
    report = await move(source, target, concurrency=random.randint(1, 9))
    counts = report.snapshots
    assert counts.found == sum(map(len, fates.values()))
    assert counts.copied == counts.verified == len(fates["new"]) + len(fates["other"])
    assert counts.already_there == len(fates["same"])
    assert counts.failed == len(fates["refused"])
    assert {failure.item_id for failure in counts.failures} == set(map(str, fates["refused"]))
    assert sorted(target.saves) == sorted(fates["new"] + fates["other"])
    assert report.exit_code == (3 if fates["refused"] else 0)


@pytest.mark.parametrize("there", [1.0, True, "1"])
async def test_transfer_replaces_a_value_of_another_type(there: Any) -> None:
    """1 == 1.0 == True, but the target gets what the source has."""
    source, target = Store(), Store()
    await source.save_snapshot(make(0, context={"n": 1}))
    await target.save_snapshot(make(0, context={"n": there}))
    assert (await move(source, target)).snapshots.copied == 1
    assert await contents(target) == await contents(source)


@pytest.mark.parametrize("length", [1, 500_000])
async def test_transfer_takes_keys_in_any_order_as_equal(length: int) -> None:
    """A target that gives the keys of a dict in another order has the same snapshot, large ones too."""
    source, target = Store(), Store()
    await source.save_snapshot(make(0, context={"a": "x" * length, "b": {"c": 2.0, "d": None}}))
    await target.save_snapshot(make(0, context={"b": {"d": None, "c": 2.0}, "a": "x" * length}))
    assert (await move(source, target)).snapshots.already_there == 1


@pytest.mark.parametrize("field", [{"status": "failed"}, {"retention_until": NOW + DAY}, {"external_refs": {"a": "b"}}])
async def test_transfer_replaces_what_differs_in_any_field(field: dict[str, Any]) -> None:
    """Not only the context is compared."""
    source, target = Store(), Store()
    await source.save_snapshot(make(0, **field))
    await target.save_snapshot(make(0))
    assert (await move(source, target)).snapshots.copied == 1
    assert await contents(target) == await contents(source)


async def test_transfer_retries_while_a_server_cannot_be_asked() -> None:
    """An item that meets an outage is tried again, and counts once."""
    source, target = await filled(), Store()
    target.failing[number(4)], target.left[number(4)] = HotTierUnavailable("down"), 3
    report = await move(source, target, patience=SHORT)
    assert (report.snapshots.copied, report.failed) == (30, 0)


async def test_transfer_goes_on_after_an_item_whose_server_never_answers() -> None:
    """When patience is at its end the item is counted and named, and the rest arrives."""
    source, target = await filled(), Store()
    target.failing[number(4)] = HotTierUnavailable("down")
    report = await move(source, target)
    assert (report.snapshots.copied, report.snapshots.failed, report.exit_code) == (29, 1, 4)
    [failure] = report.snapshots.failures
    assert (failure.item_id, failure.saga_id) == (str(number(4)), str(saga_number(1)))
    assert failure.error_type == "HotTierUnavailable"


async def test_transfer_fails_with_one_code_for_failures_of_several_kinds() -> None:
    """Which of several exit codes would be arbitrary."""
    source, target = await filled(), Store()
    target.failing = {number(4): HotTierUnavailable("down"), number(9): SnapshotTooLarge("large")}
    assert (await move(source, target)).exit_code == 1


async def test_transfer_ends_at_an_outage_and_resumes(tmp_path: Any) -> None:
    """A target that is gone ends it instead of failing every item; the journal passes none of those."""
    source, target = await filled(sagas=60, each=2, logs=0), Store()

    def down_from_the_fiftieth(_: SagaSnapshot) -> None:
        target.is_down = len(target.saves) >= 50

    target.before_save = down_from_the_fiftieth
    with pytest.raises(HotTierUnavailable):
        await move(source, target, concurrency=4, journal=tmp_path / "j.json")
    assert len(target.saves) < 120
    target.before_save, target.is_down = None, False
    report = await move(source, target, concurrency=4, journal=tmp_path / "j.json")
    assert (report.snapshots.found, report.failed, report.exit_code) == (120, 0, 0)
    assert await contents(target) == await contents(source)


@pytest.mark.parametrize("error", [BucketUnusable("no such bucket"), ConfigError("wrong")])
async def test_transfer_ends_at_what_every_item_would_meet(error: SagazTieringError) -> None:
    """A wrong configuration is an error, not a list of failed items."""
    source, target = await filled(), Store()
    target.failing[number(4)] = error
    with pytest.raises(type(error)):
        await move(source, target)


async def test_transfer_stops_and_resumes_from_where_it_stood(tmp_path: Any) -> None:
    """Stopped in the middle it says so; the next run reads only what is behind the mark, and the sums are whole."""
    source, target, stop = await filled(sagas=50, each=4, logs=6), Store(), asyncio.Event()

    def stop_at_the_hundredth(_: SagaSnapshot) -> None:
        if len(target.saves) == 100:
            stop.set()

    target.before_save = stop_at_the_hundredth
    first = await move(source, target, concurrency=3, journal=tmp_path / "j.json", stop=stop)
    assert first.stopped
    assert 100 <= first.snapshots.copied < 110
    assert sorted(target.saves) == [
        s.snapshot_id for s in sorted(snapshots(50, 4), key=_id) if s.snapshot_id in target.saves
    ]
    source.walked.clear()
    second = await move(source, target, concurrency=3, journal=tmp_path / "j.json")
    assert (second.resumed, second.stopped) == (True, False)
    assert len(source.walked) <= 26 + 3
    assert (second.snapshots.found, second.snapshots.sagas, second.replay_logs.copied) == (200, 50, 6)
    assert second.snapshots.copied + second.snapshots.already_there == 200
    assert len(target.saves) == len(set(target.saves)) == 200
    assert await contents(target) == await contents(source)


def _id(snapshot: SagaSnapshot) -> UUID:
    return snapshot.snapshot_id


@pytest.mark.parametrize("at", [0, 1, 37, 99, 149])
async def test_transfer_killed_at_any_item_resumes(tmp_path: Any, at: int) -> None:
    """Ended by an error at one item, with whatever was in flight, the next run completes it; none is saved twice."""
    source, target = await filled(sagas=30, each=5), Store()

    def die(_: SagaSnapshot) -> None:
        if len(target.saves) == at:
            raise KeyError("killed")

    target.before_save = die
    with pytest.raises(KeyError):
        await move(source, target, journal=tmp_path / "j.json")
    target.before_save = None
    report = await move(source, target, journal=tmp_path / "j.json")
    assert (report.snapshots.found, report.replay_logs.found) == (150, 5)
    assert len(target.saves) == len(set(target.saves)) == 150
    assert await contents(target) == await contents(source)


async def test_transfer_resumes_in_the_replay_records(tmp_path: Any) -> None:
    """Stopped among the replay records it does not read the snapshots again."""
    source, target, stop = await filled(logs=40), Store(), asyncio.Event()
    save = target.save_replay_log

    async def save_and_stop(result: Any) -> None:
        await save(result)
        if (await target.health_check()).details["replays"] == 20:
            stop.set()

    target.save_replay_log = save_and_stop  # type: ignore[method-assign]
    assert (await move(source, target, concurrency=2, journal=tmp_path / "j.json", stop=stop)).stopped
    source.walked.clear()
    report = await move(source, target, concurrency=2, journal=tmp_path / "j.json")
    assert (source.walked, report.snapshots.copied, report.replay_logs.found) == ([], 30, 40)
    assert await contents(target) == await contents(source)


async def test_transfer_begins_anew_after_the_end(tmp_path: Any) -> None:
    """A finished journal is no reason to miss what was saved since."""
    source, target, journal = await filled(), Store(), tmp_path / "j.json"
    await move(source, target, journal=journal)
    await source.save_snapshot(make(500, saga_id=saga_number(0)))
    report = await move(source, target, journal=journal)
    assert (report.resumed, report.snapshots.copied, report.snapshots.already_there) == (False, 1, 30)


async def test_transfer_begins_anew_when_the_target_lost_what_the_journal_says(tmp_path: Any) -> None:
    """A target that was emptied meanwhile is filled from the beginning."""
    source, target, stop = await filled(sagas=50), Store(), asyncio.Event()
    target.before_save = lambda _: stop.set() if len(target.saves) == 90 else None
    await move(source, target, journal=tmp_path / "j.json", stop=stop)
    target.clear()
    target.before_save = None
    report = await move(source, target, journal=tmp_path / "j.json")
    assert (report.resumed, report.snapshots.copied) == (False, 150)
    assert await contents(target) == await contents(source)


async def test_transfer_keeps_its_journal_while_the_target_is_away(tmp_path: Any) -> None:
    """A run that cannot even look at the target leaves the mark for the next one."""
    source, target, journal = await filled(), Store(), tmp_path / "j.json"
    await _stopped(source, target, journal, concurrency=1)
    target.is_down, before = True, journal.read_bytes()
    with pytest.raises(HotTierUnavailable):
        await move(source, target, concurrency=1, journal=journal)
    assert journal.read_bytes() == before
    target.is_down = False
    assert (await move(source, target, concurrency=1, journal=journal)).resumed


@pytest.mark.parametrize("patience", [NO_PATIENCE, timedelta(hours=1)])
async def test_transfer_stops_while_it_waits_for_a_server(patience: timedelta) -> None:
    """A stop ends the waiting; the item that waited counts as not begun."""
    source, target, stop = await filled(), Store(), asyncio.Event()
    target.failing[number(4)] = HotTierUnavailable("down")
    target.before_save = lambda s: stop.set() if s.snapshot_id == number(4) else None
    report = await move(source, target, patience=patience, stop=stop, concurrency=1)
    assert (report.stopped, report.failed, report.snapshots.found) == (True, 0, 5)
    assert target.saves == [number(at) for at in (2, 0, 1, 5, 3)]


async def _stopped(source: Store, target: Store, journal: Any, **options: Any) -> None:
    stop = asyncio.Event()
    target.before_save = lambda _: stop.set() if len(target.saves) == 5 else None
    assert (await move(source, target, journal=journal, stop=stop, **options)).stopped
    target.before_save = None


@pytest.mark.parametrize(
    "change", [{"saga_ids": [SAGA]}, {"replay_logs": False}, {"verify": False}, {"target_name": "elsewhere"}]
)
async def test_transfer_refuses_the_journal_of_another(tmp_path: Any, change: dict[str, Any]) -> None:
    """Going on from another transfer's mark would leave things out; `restart` overwrites it."""
    source, target, journal = await filled(), Store(), tmp_path / "j.json"
    await _stopped(source, target, journal)
    with pytest.raises(ConfigError, match="another transfer") as caught:
        await move(source, target, journal=journal, **change)
    assert "--restart" in caught.value.hint
    assert not (await move(source, target, journal=journal, restart=True, **change)).resumed


async def test_transfer_of_chosen_sagas_resumes_with_those_alone(tmp_path: Any) -> None:
    """Behind the mark, and only with the same choice."""
    source, target, journal = await filled(sagas=20), Store(), tmp_path / "j.json"
    chosen = [saga_number(at) for at in range(0, 20, 2)]
    await _stopped(source, target, journal, concurrency=1, saga_ids=chosen)
    with pytest.raises(ConfigError, match="another transfer"):
        await move(source, target, journal=journal, saga_ids=[saga_number(at) for at in range(1, 20, 2)])
    source.walked.clear()
    report = await move(source, target, journal=journal, saga_ids=reversed(chosen))
    assert (report.resumed, report.snapshots.found, report.snapshots.sagas) == (True, 30, 10)
    assert source.walked == chosen[2:]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 1}', '{"format": 99}', "\x00\xff"])
async def test_transfer_refuses_a_damaged_journal(tmp_path: Any, text: str) -> None:
    """Neither a crash nor a silent start from the beginning."""
    (tmp_path / "j.json").write_text(text)
    with pytest.raises(ConfigError, match="not a journal"):
        await move(await filled(), Store(), journal=tmp_path / "j.json")


@pytest.mark.parametrize("lost", ["mark", "phase", "seconds", "replay_logs", "snapshots copied"])
async def test_transfer_refuses_a_journal_that_lacks_something(tmp_path: Any, lost: str) -> None:
    """It would begin at the wrong place, or tell of less than was done."""
    source, target, journal = await filled(), Store(), tmp_path / "j.json"
    await _stopped(source, target, journal)
    document = json.loads(journal.read_bytes())
    *outer, name = lost.split()
    del reduce(getitem, outer, document)[name]
    journal.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="not a journal"):
        await move(source, target, journal=journal)


async def test_transfer_refuses_a_journal_in_use(tmp_path: Any) -> None:
    """Two runs of one transfer would overwrite each other's marks."""
    source, target, journal = await filled(), Store(), tmp_path / "j.json"
    codes: list[int] = []
    save = target.save_replay_log

    async def save_and_run_another(result: Any) -> None:
        await save(result)
        with pytest.raises(SagazTieringError, match="another process") as caught:
            await move(source, target, journal=journal)
        codes.append(caught.value.exit_code)

    target.save_replay_log = save_and_run_another  # type: ignore[method-assign]
    await move(source, target, journal=journal)
    assert set(codes) == {7}


async def test_transfer_says_when_its_journal_cannot_be_written(tmp_path: Any) -> None:
    """A journal in a place that is none is an error before anything is copied."""
    (tmp_path / "file").write_text("")
    target = Store()
    with pytest.raises(ConfigError, match="cannot be used"):
        await move(await filled(), target, journal=tmp_path / "file" / "j.json")
    assert target.saves == []


async def test_transfer_dry_run_writes_nothing(tmp_path: Any) -> None:
    """It reads and compares, says what it would copy, and leaves target and journal alone."""
    source, target = await filled(), Store()
    for snapshot in snapshots(sagas=3):
        await target.save_snapshot(snapshot)
    before = await contents(target)
    report = await move(source, target, dry_run=True, journal=tmp_path / "j.json")
    assert await contents(target) == before
    assert list(tmp_path.iterdir()) == []
    assert (report.dry_run, report.snapshots.copied, report.snapshots.already_there) == (True, 21, 9)
    assert (report.replay_logs.copied, report.snapshots.verified) == (5, 0)


class Forgetful(Store):
    """Acknowledges and gives back something else."""

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        await super().save_snapshot(make(7, snapshot_id=snapshot.snapshot_id, saga_id=snapshot.saga_id))


class Losing(Store):
    """Acknowledges and keeps nothing."""

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        self.saves.append(snapshot.snapshot_id)

    async def save_replay_log(self, result: Any) -> None:
        pass


@pytest.mark.parametrize("kind", [Forgetful, Losing])
async def test_transfer_verifies_what_it_wrote(kind: type[Store]) -> None:
    """What does not come back equal has failed, though the target said it was saved."""
    report = await move(await filled(logs=0), kind())
    assert (report.snapshots.failed, report.snapshots.verified, report.exit_code) == (30, 0, 6)
    assert report.snapshots.failures[0].error_type == "NotVerified"


async def test_transfer_verifies_replay_records() -> None:
    """They are read back too."""
    assert (await move(await filled(sagas=0, logs=3), Losing())).replay_logs.failed == 3


async def test_transfer_without_verification_reads_nothing_back() -> None:
    """`verify=False` trusts the acknowledgement, and claims no more."""
    report = await move(await filled(), Losing(), verify=False)
    assert (report.snapshots.copied, report.snapshots.verified, report.failed) == (30, 0, 0)


async def test_transfer_of_one_large_saga_uses_every_slot_and_no_more() -> None:
    """Snapshots of one saga are copied at the same time; never more are in memory than in flight and waiting."""
    source, target = Counting(), Store()
    for snapshot in snapshots(sagas=1, each=400):
        await source.save_snapshot(snapshot)
    await move(_watched(source, target), target, concurrency=6)
    assert target.most_in_flight == 6
    assert source.most_held <= 6 + 1


async def test_transfer_of_many_sagas_holds_a_bounded_number() -> None:
    """With a thousand sagas there are never more snapshots in memory than workers and slots."""
    source, target = Counting(), Store()
    for snapshot in snapshots(sagas=1000, each=2):
        await source.save_snapshot(snapshot)
    await move(_watched(source, target), target, concurrency=5)
    assert target.most_in_flight == 5
    assert source.most_held <= 5 + 5


class Counting(Store):
    """Counts snapshots that it gave out and that are not yet at the target."""

    held = most_held = 0

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        async for snapshot in super().iter_snapshots(saga_id, after=after):
            self.held += 1
            self.most_held = max(self.most_held, self.held)
            yield snapshot


def _watched(source: Counting, target: Store) -> Counting:
    def saved(_: SagaSnapshot) -> None:
        source.held -= 1

    target.before_save = saved
    return source


async def test_transfer_waits_for_a_saga_that_takes_long() -> None:
    """However far the others could run ahead, what is done and not committed stays bounded."""
    source, target = await filled(sagas=400, each=1, logs=0), Store()
    blocked = asyncio.Event()
    save = target.save_snapshot

    async def slow(snapshot: SagaSnapshot) -> None:
        if snapshot.saga_id == saga_number(0):
            await blocked.wait()
        await save(snapshot)

    target.save_snapshot = slow  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(move(source, target, concurrency=2))
        await _until_it_stands_still(target)
        assert len(target.saves) < 2 * 64
        blocked.set()
    assert running.result().snapshots.copied == 400


async def _until_it_stands_still(target: Store) -> None:
    before = 0
    while before == 0 or before != len(target.saves):
        before = len(target.saves)
        for _ in range(200):
            await asyncio.sleep(0)


async def test_transfer_stops_while_a_saga_that_takes_long_holds_up_the_others() -> None:
    """Workers that wait for room end too."""
    go_on, stop = asyncio.Event(), asyncio.Event()

    class Slow(Store):
        async def iter_snapshots(
            self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
        ) -> AsyncIterator[SagaSnapshot]:
            async for snapshot in super().iter_snapshots(saga_id, after=after):
                if saga_id == saga_number(0):
                    await go_on.wait()
                yield snapshot

    source, target = Slow(), Store()
    for snapshot in snapshots(sagas=400, each=1):
        await source.save_snapshot(snapshot)
    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        running = group.create_task(move(source, target, concurrency=2, stop=stop))
        await _until_it_stands_still(target)
        stop.set()
        go_on.set()
    assert running.result().stopped


async def test_transfer_leaves_out_what_expires_on_the_way() -> None:
    """A snapshot past its retention when it would be saved is counted as expired, not as failed."""
    source, target, clock = Store(), Store(), VirtualClock(NOW)
    await source.save_snapshot(make(0, retention_until=NOW + DAY))
    await source.save_snapshot(make(1))
    clock.advance(DAY)
    report = await move(source, target, clock=clock)
    assert (report.snapshots.expired, report.snapshots.copied, report.exit_code) == (1, 1, 0)


async def test_transfer_counts_what_the_target_lets_expire_at_once() -> None:
    """A target whose own rules make it expired has it in its index; that is said, and is no failure."""

    class Strict(Losing):
        async def locate(self, snapshot_id: UUID) -> list[SnapshotRef]:
            return [_ref(s, expires_at=NOW) for s in snapshots(10) if s.snapshot_id == snapshot_id]

    report = await move(await filled(logs=0), Strict())
    assert (report.snapshots.expired, report.failed) == (30, 0)
    assert "retention rules" in report.snapshots.notes[0]


def _ref(snapshot: SagaSnapshot, **fields: Any) -> SnapshotRef:
    names = ("snapshot_id", "saga_id", "saga_name", "step_name", "step_index", "status", "created_at")
    values = {name: getattr(snapshot, name) for name in names}
    return SnapshotRef(**{**values, "expires_at": None, "tier": Tier.COLD, **fields})


async def test_transfer_takes_an_archived_copy_as_there() -> None:
    """A target copy whose bytes cannot be read is not saved again, and counted as not compared."""
    source, target = await filled(), Store()
    await move(source, target)
    target.archived, target.saves = {number(1), number(2)}, []
    report = await move(source, target)
    assert (report.snapshots.already_there, report.snapshots.not_compared, target.saves) == (30, 2, [])


async def test_transfer_replaces_an_archived_copy_that_its_index_describes_otherwise() -> None:
    """Where the target can say what it has without the bytes, that is compared."""

    class Indexed(Store):
        async def locate(self, snapshot_id: UUID) -> list[SnapshotRef]:
            return [_ref(make(99, snapshot_id=snapshot_id))]

        async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
            self.archived.discard(snapshot.snapshot_id)
            await super().save_snapshot(snapshot)

    source, target = await filled(), Indexed()
    await move(source, target)
    target.archived, target.saves = {number(1)}, []
    report = await move(source, target)
    assert (report.snapshots.copied, target.saves) == (1, [number(1)])


async def test_transfer_copies_what_of_a_saga_is_not_archived() -> None:
    """What the source can name it is asked for one by one; the archived ones are counted, with how to restore."""

    class Tiers(Store):
        async def timeline(self, saga_id: UUID) -> list[SnapshotRef]:
            return [_ref(s) for s in snapshots(10) if s.saga_id == saga_id]

    source, target = Tiers(), Store()
    for snapshot in snapshots(10):
        await source.save_snapshot(snapshot)
    source.archived = {number(3), number(5), number(10)}
    report = await move(source, target)
    assert (report.snapshots.found, report.snapshots.copied, report.snapshots.archived) == (30, 27, 3)
    assert (report.exit_code, report.failed) == (5, 0)
    assert "run: restore" in report.snapshots.notes[0]
    assert {number(at) for at in range(30)} - set(target.saves) == source.archived


async def test_transfer_lists_the_newest_of_a_saga_that_names_none() -> None:
    """Without a timeline, what is newer than the archived ones is copied."""
    source, target = await filled(sagas=1, each=9, logs=0), Store()
    source.archived = {number(4)}
    report = await move(source, target)
    assert (report.snapshots.copied, report.snapshots.archived) == (8, 1)
    assert number(4) not in target.saves


async def test_transfer_counts_what_the_source_cannot_read() -> None:
    """A damaged record of the source is a failure with a name, and hides no other."""
    source, target = await filled(), Store()
    for at in (4, 20):
        stored = source._snapshots[number(at)]
        source._snapshots[number(at)] = stored._replace(value=stored.value[:-5])
    report = await move(source, target)
    assert (report.snapshots.found, report.snapshots.copied, report.snapshots.failed) == (30, 28, 2)
    assert {failure.item_id for failure in report.snapshots.failures} == {str(number(4)), str(number(20))}
    assert report.exit_code == CorruptRecord.exit_code


async def test_transfer_counts_replay_records_that_cannot_be_read() -> None:
    """Also the last one, behind which none follows."""
    source, target = await filled(sagas=0, logs=5), Store()
    for at in (1, 4):
        stored = source._replay_records[number(at)]
        source._replay_records[number(at)] = stored._replace(data=b"\x07")
    report = await move(source, target)
    assert (report.replay_logs.found, report.replay_logs.copied, report.replay_logs.failed) == (5, 3, 2)


async def test_transfer_heals_a_damaged_copy() -> None:
    """A copy at the target that cannot be read is saved again."""
    source, target = await filled(), Store()
    await move(source, target)
    stored = target._snapshots[number(4)]
    target._snapshots[number(4)] = stored._replace(value=b"")
    assert (await move(source, target)).snapshots.copied == 1
    assert await contents(target) == await contents(source)


class Breaking(Store):
    """A source that cannot be asked for a moment: in the middle of sagas, of a saga and of the replay records."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks = 3

    def _break(self, at: int) -> None:
        if self.breaks > 0 and at == 2:
            self.breaks -= 1
            raise HotTierUnavailable("for a moment")

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        at = 0
        async for found in super().saga_ids(after=after):
            self._break(at)
            yield found
            at += 1

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        at = 0
        async for found in super().iter_snapshots(saga_id, after=after):
            self._break(at)
            yield found
            at += 1

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        at = 0
        async for found in super().iter_replay_logs(after=after):
            self._break(at)
            yield found
            at += 1


@pytest.mark.parametrize("sagas", [0, 1, 8])
async def test_transfer_reads_on_after_an_outage_of_the_source(sagas: int) -> None:
    """Each item is read and counted once, however often the source breaks off."""
    source, target = Breaking(), Store()
    for snapshot in snapshots(sagas, each=6):
        await source.save_snapshot(snapshot)
    for at in range(5):
        await source.save_replay_log(replay(at))
    report = await move(source, target, patience=SHORT)
    assert (report.snapshots.copied, report.replay_logs.copied) == (6 * sagas, 5)
    assert len(target.saves) == len(set(target.saves))


async def test_transfer_does_not_count_the_time_of_the_target_as_an_outage_of_the_source() -> None:
    """A source that breaks off once in a while is asked again, however long the target took before."""
    source, target = Breaking(), Store()
    for snapshot in snapshots(4, each=1):
        await source.save_snapshot(snapshot)
    patience = timedelta(seconds=1)
    target.before_save = lambda _: time.sleep(1.5 * patience.total_seconds() * (len(target.saves) == 1))
    report = await move(source, target, patience=patience, concurrency=1)
    assert report.snapshots.copied == 4


async def test_transfer_counts_a_saga_that_cannot_be_read() -> None:
    """A saga whose tier stays away is one failure, and the others arrive, and of it what came by itself: its newest."""

    class Away(Store):
        async def iter_snapshots(
            self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
        ) -> AsyncIterator[SagaSnapshot]:
            if saga_id == saga_number(3):
                raise HotTierUnavailable("its shard is down")
            async for found in super().iter_snapshots(saga_id, after=after):
                yield found

    source, target = Away(), Store()
    for snapshot in snapshots(10):
        await source.save_snapshot(snapshot)
    report = await move(source, target)
    assert (report.snapshots.copied, report.snapshots.failed, report.exit_code) == (28, 1, 4)
    assert (report.snapshots.failures[0].item_id, report.snapshots.failures[0].saga_id) == (None, str(saga_number(3)))


async def test_transfer_of_selected_sagas() -> None:
    """Only these, as UUID or text and in any order; of the replay records only theirs."""
    source, target = await filled(), Store()
    report = await move(source, target, saga_ids=[str(saga_number(3)), saga_number(1), saga_number(3)])
    assert {s.saga_id async for s in target.iter_snapshots()} == {saga_number(1), saga_number(3)}
    assert (report.snapshots.copied, report.replay_logs.found, report.replay_logs.copied) == (6, 2, 2)


async def test_transfer_says_when_a_selected_saga_is_not_there() -> None:
    """Nothing of it is an answer that must be seen."""
    report = await move(await filled(), Store(), saga_ids=[saga_number(1), saga_number(99)])
    assert (report.snapshots.copied, report.snapshots.sagas_missing, report.exit_code) == (3, 1, 8)


async def test_transfer_without_replay_records() -> None:
    """`replay_logs=False` leaves them."""
    source, target = await filled(), Store()
    assert (await move(source, target, replay_logs=False)).replay_logs.found == 0
    assert [record async for record in target.iter_replay_logs()] == []


async def test_transfer_replaces_replay_records_that_differ_in_type() -> None:
    """As with snapshots, 1 is not 1.0."""
    source, target = Store(), Store()
    await source.save_replay_log(replay(0, context_override={"n": 1}))
    await target.save_replay_log(replay(0, context_override={"n": 1.0}))
    assert (await move(source, target)).replay_logs.copied == 1
    assert await contents(target) == await contents(source)


async def test_transfer_refuses_replay_records_that_are_none() -> None:
    """A record of a foreign source that is not one is counted and named."""

    class Odd(Store):
        async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
            yield {"replay_id": str(number(1)), "replay_status": "odd"}
            async for record in super().iter_replay_logs(after=number(1)):
                yield record

    source = Odd()
    await source.save_replay_log(replay(5))
    report = await move(source, Store())
    assert (report.replay_logs.copied, report.replay_logs.failed, report.exit_code) == (1, 1, 3)


async def test_transfer_tells_how_far_it_is() -> None:
    """Progress never goes back within a phase, and the last word of each phase is the whole."""
    told: list[TransferProgress] = []
    await move(await filled(sagas=300, each=3, logs=20), Store(), progress=told.append)
    for phase, total in (("snapshots", 900), ("replay logs", 20)):
        counts = [each.found for each in told if each.phase == phase]
        assert counts == sorted(counts)
        assert counts[-1] == total


async def test_transfer_includes_what_a_reader_of_foreign_data_says() -> None:
    """Records that it could not read are a failure, what it left out as expired is not."""
    source: Any = await filled()
    source.problems, source.adjusted, source.expired = Remarks(1, ["key x: not JSON"]), Remarks(2, ["a", "b"]), 3
    report = await move(source, Store())
    assert (report.source_problems, report.source_problem_count, report.exit_code) == (["key x: not JSON"], 1, 6)
    assert (report.source_adjusted_count, report.source_expired) == (2, 3)


async def test_transfer_refuses_a_source_that_is_the_target() -> None:
    """It would find everything there."""
    store = await filled()
    with pytest.raises(ConfigError, match="the same"):
        await move(store, store)
    with pytest.raises(ConfigError, match="the same"):
        await move(store, Store(), source_name="redis://a", target_name="redis://a")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, ValueError),
        ({"saga_ids": ["nonsense"]}, InvalidSnapshot),
        ({"saga_ids": "abc"}, InvalidSnapshot),
    ],
)
async def test_transfer_refuses_bad_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    """Before anything is read."""
    with pytest.raises(error):
        await move(await filled(), Store(), **options)


async def test_transfer_refuses_a_source_out_of_order() -> None:
    """A mark means nothing where ids do not ascend."""

    class Shuffled(Store):
        async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
            for at in (1, 3, 2):
                yield saga_number(at)

    with pytest.raises(SagazTieringError, match="after"):
        await move(Shuffled(), Store())


async def test_transfer_cancelled_leaves_a_journal_to_resume_from(tmp_path: Any) -> None:
    """Cancellation is never eaten, and what was done until then counts."""
    source, target = await filled(sagas=200, each=2, logs=0), Store()
    running: list[asyncio.Task[Any]] = []
    target.before_save = lambda _: running[0].cancel() if len(target.saves) == 300 else None
    running.append(asyncio.create_task(move(source, target, journal=tmp_path / "j.json")))
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    target.before_save = None
    report = await move(source, target, journal=tmp_path / "j.json")
    assert report.resumed
    assert (report.snapshots.found, report.run_items < 200) == (400, True)
    assert await contents(target) == await contents(source)
