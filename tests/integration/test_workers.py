"""Processes that share a large backlog: they do their part, stop when they are told, and lose nothing when they die."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs
from support.payload import snapshots
from support.tiers import Places, config

from sagaz_tiering import metrics
from sagaz_tiering.app import workers
from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.app.workers import WorkerPool
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.sections import BudgetSettings
from sagaz_tiering.errors import HotTierUnavailable, LeaseLost, MasterKeyUnavailable
from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.jobs.age import job as age
from sagaz_tiering.jobs.context import INLINE_BYTES, Tally
from sagaz_tiering.jobs.ownership import put_policies_in_force
from sagaz_tiering.packs import format
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import SagaSnapshot

SAGAS = 8
LONGER = 60
"""So many take a worker longer than it takes to see it at work."""
MANY = 100
LONG_AGO = datetime.now(UTC) - timedelta(days=30)  # workers have the real clock


@pytest.fixture
def claim_ttl() -> str:
    """As long as any process may be held up: what two of them pack, each counts."""
    return "5m"


@pytest.fixture
def settings(places: Places, claim_ttl: str) -> TieringConfig:
    """Two processes, packs of a few sagas."""
    jobs = {"processes": 2, "batch_sagas": 2, "claim_ttl": claim_ttl, "lease_ttl": "5s"}
    return config(**places, pack={"target": 8 * 1024, "max_frame": 8 * 1024}, jobs=jobs)


@pytest.fixture
async def runtime(settings: TieringConfig) -> AsyncIterator[Runtime]:
    """Open, with the real clock."""
    async with open_runtime(settings) as opened:
        yield opened


@pytest.fixture
async def saved(runtime: Runtime) -> list[SagaSnapshot]:
    """A backlog that is due."""
    return await backlog(runtime, SAGAS)


async def backlog(runtime: Runtime, sagas: int) -> list[SagaSnapshot]:
    """So many sagas."""
    found = list(snapshots(sagas, created_at=LONG_AGO, saga_name="fast-order"))
    await run_job("age", runtime.job_context())  # the policies are in force from now on
    await asyncio.gather(*map(runtime.storage().save_snapshot, found))
    return found


async def check_archived(runtime: Runtime, saved: list[SagaSnapshot], every: int = 1) -> None:
    """All (or every n-th) are readable and equal, Redis has none, and the catalog counts each once."""
    for snapshot in saved[::every]:
        assert await runtime.storage().get_snapshot(snapshot.snapshot_id) == snapshot
    assert [found async for found in runtime.hot.snapshots()] == []
    assert sum(total.snapshots for total in await runtime.catalog.packs.totals()) == len(saved)


async def left(runtime: Runtime) -> int:
    """Snapshots in Redis."""
    return len([found async for found in runtime.hot.snapshots()])


def children(pid: int | None = None) -> list[psutil.Process]:
    """Worker processes of this one, or of another."""
    return [each for each in psutil.Process(pid).children() if "sagaz_tiering.app.worker" in each.cmdline()]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what another process does; fail after a while."""
    deadline = time.monotonic() + 300
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_workers_do_it_all_if_this_process_does_nothing(runtime: Runtime, saved: list[SagaSnapshot]) -> None:
    """Every snapshot goes into packs by the worker, and its counts come to the one who asked."""
    tally = Tally(None)
    async with WorkerPool(runtime.settings).share("age", asyncio.Event(), tally, runtime.policies):
        pass
    assert tally.counts["archived"] == tally.counts["evicted"] == len(saved)
    assert tally.notes == []
    assert children() == []
    await check_archived(runtime, saved)


async def test_large_backlog_is_shared(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, several processes: each snapshot is archived once, and the report counts all of them."""
    monkeypatch.setattr(age, "WORTH_SHARING", SAGAS)
    shared = asyncio.Event()
    real = age.run_share

    async def wait_for_worker(*args: Any) -> None:
        await eventually(lambda: _is_begun(runtime, saved))
        shared.set()
        await real(*args)

    monkeypatch.setattr(age, "run_share", wait_for_worker)
    report = await run_job("age", runtime.job_context())
    assert shared.is_set()
    assert report.counts["archived"] == report.counts["evicted"] == len(saved)
    await check_archived(runtime, saved)


async def _is_begun(runtime: Runtime, saved: list[SagaSnapshot]) -> bool:
    """Whether the first saga is gone from Redis."""
    return (await runtime.hot.queue.counts(0))["sagas_waiting"] < len({each.saga_id for each in saved})


async def test_small_backlog_is_not_shared(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process takes longer to begin than the work does."""

    def fail(*_args: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(WorkerPool, "share", fail)
    await run_job("age", runtime.job_context())
    await check_archived(runtime, saved)


@pytest.mark.parametrize("claim_ttl", ["1s"])
async def test_killed_worker_is_told_and_loses_nothing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, its report says it; what the worker had claimed is packed once its claims have run out."""
    saved = await backlog(runtime, LONGER)
    monkeypatch.setattr(age, "WORTH_SHARING", LONGER)
    real = age.run_share

    async def kill_worker(*args: Any) -> None:
        await eventually(lambda: _is_begun(runtime, saved))
        [worker] = children()
        worker.kill()
        await real(*args)

    monkeypatch.setattr(age, "run_share", kill_worker)
    with capture_logs() as logs:
        report = await run_job("age", runtime.job_context())
    assert any("a worker process stopped early" in note for note in report.notes)
    assert [line["event"] for line in logs if line["event"] == "worker.failed"] == ["worker.failed"]
    monkeypatch.setattr(age, "run_share", real)

    async def all_gone() -> bool:
        await run_job("age", runtime.job_context())
        return await left(runtime) == 0

    await eventually(all_gone)
    await check_archived(runtime, saved)


async def test_workers_stop_when_they_are_told(runtime: Runtime) -> None:
    """They finish their step and give back what they had claimed."""
    saved = await backlog(runtime, MANY)
    stopping, tally = asyncio.Event(), Tally(None)
    async with WorkerPool(runtime.settings).share("age", stopping, tally, runtime.policies):
        await eventually(lambda: _is_begun(runtime, saved))
        stopping.set()
    assert children() == []
    assert tally.notes == []
    gone = tally.counts["evicted"]
    assert 0 < gone < len(saved)
    assert await left(runtime) == len(saved) - gone
    report = await run_job("age", runtime.job_context())
    assert gone + report.counts["evicted"] == len(saved)
    await check_archived(runtime, saved, every=50)


async def test_worker_ends_with_the_process_that_started_it(runtime: Runtime) -> None:
    """Nobody is left behind by a daemon that was killed: the end of its input tells."""
    saved = await backlog(runtime, MANY)
    code = (
        "import asyncio, pickle, sys\n"
        "from sagaz_tiering.app.workers import WorkerPool\nfrom sagaz_tiering.jobs.context import Tally\n"
        "from sagaz_tiering.policy import PolicySet\n"
        "config = pickle.load(sys.stdin.buffer)\n"
        "async def main():\n"
        "    policies = PolicySet(config.policies)\n"
        "    async with WorkerPool(config).share('age', asyncio.Event(), Tally(None), policies):\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
    assert parent.stdin is not None
    parent.stdin.write(pickle.dumps(runtime.settings))
    await parent.stdin.drain()
    parent.stdin.close()
    await eventually(lambda: _is_begun(runtime, saved))
    [worker] = children(parent.pid)
    parent.kill()
    await parent.wait()

    async def is_gone() -> bool:
        return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE

    await eventually(is_gone)
    assert await left(runtime) > 0


async def test_worker_that_cannot_be_started_is_told(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run does the work by itself."""
    monkeypatch.setattr(age, "WORTH_SHARING", SAGAS)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    report = await run_job("age", runtime.job_context())
    [note] = report.notes
    assert "FileNotFoundError" in note
    await check_archived(runtime, saved)


async def test_workers_use_the_servers_that_are_open(
    runtime: Runtime, saved: list[SagaSnapshot], tmp_path: Path
) -> None:
    """A reload puts policies in force; another object store only after a restart, for every process."""
    tiers = runtime.settings.tiers
    cold = tiers.cold.model_copy(update={"url": f"file://{tmp_path / 'elsewhere'}"})
    await runtime.reload(
        runtime.settings.model_copy(update={"tiers": tiers.model_copy(update={"cold": cold}), "policies": ()})
    )
    policies = PolicySet(config(database="postgresql://x", redis_url="redis://x", cold=tmp_path).policies)
    opened = runtime.job_context().workers
    assert opened is not None
    async with opened.share("age", asyncio.Event(), Tally(None), policies):
        pass
    await check_archived(runtime, saved)


async def test_error_of_a_worker_is_told(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot work says why, and holds up nobody."""
    url = "redis://127.0.0.1:1/0"
    hot = runtime.settings.tiers.hot.model_copy(update={"url": type(runtime.settings.tiers.hot.url)(url)})
    broken = runtime.settings.model_copy(update={"tiers": runtime.settings.tiers.model_copy(update={"hot": hot})})
    tally = Tally(None)
    own_work = asyncio.Event()
    with pytest.raises(HotTierUnavailable, match="Redis") as caught:
        async with WorkerPool(broken).share("age", asyncio.Event(), tally, runtime.policies):
            own_work.set()
    assert own_work.is_set()
    assert caught.value.hint.startswith(HotTierUnavailable.hint)
    [note] = tally.notes
    assert "HotTierUnavailable" in note
    report = await run_job("age", runtime.job_context())
    assert report.counts["evicted"] == len(saved)


async def test_budget_that_a_worker_used_up_is_the_outcome_of_the_run(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this process had met it; and what the worker spent is in the metrics of this process."""
    monkeypatch.setattr(age, "WORTH_SHARING", SAGAS)
    limited = runtime.settings.model_copy(update={"budget": BudgetSettings(requests_per_day=10)})
    before = metrics.spent().get("age", (0, 0))[0]

    async def leave_it_to_the_worker(*_args: object) -> None:
        return

    monkeypatch.setattr(age, "run_share", leave_it_to_the_worker)
    report = await run_job("age", replace(runtime.job_context(), workers=WorkerPool(limited)))
    assert report.counts["budget_spent"] == 1
    spent = metrics.spent()["age"][0] - before
    assert 0 < spent <= 20, "10, and what this process, which no budget holds, spends beside it in a long run"
    [last] = [run for run in await runtime.catalog.history.last_runs() if run.job == "age"]
    assert "budget is used up" in (last.stopped or "")


async def test_workers_finish_where_this_process_only_lacked_keys(runtime: Runtime, saved: list[SagaSnapshot]) -> None:
    """A missing master key is told at the end of a share; what others can still do they do."""
    tally = Tally(None)
    with pytest.raises(MasterKeyUnavailable):
        async with WorkerPool(runtime.settings).share("age", asyncio.Event(), tally, runtime.policies):
            raise MasterKeyUnavailable("no key")
    assert tally.notes == []
    await check_archived(runtime, saved, every=10)


async def test_workers_stop_where_this_process_must(runtime: Runtime) -> None:
    """A lost lease ends the run for all."""
    saved = await backlog(runtime, MANY)

    async def lose_the_lease() -> None:
        await eventually(lambda: _is_begun(runtime, saved))
        raise LeaseLost("gone")

    with pytest.raises(LeaseLost):
        async with WorkerPool(runtime.settings).share("age", asyncio.Event(), Tally(None), runtime.policies):
            await lose_the_lease()
    assert children() == []
    assert await left(runtime) > 0


@pytest.mark.parametrize("own", [None, LeaseLost("gone")])
async def test_defect_on_the_way_to_a_worker_leaves_nothing_running(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch, own: Exception | None
) -> None:
    """Every worker and task has ended; an error of this process is the one that is raised, the other is noted."""

    async def fail(*_args: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(workers, "_listen", fail)
    tasks, tally = asyncio.all_tasks(), Tally(None)
    three = runtime.settings.model_copy(update={"jobs": runtime.settings.jobs.model_copy(update={"processes": 3})})

    async def work() -> None:
        if own is not None:
            raise own

    with pytest.raises(type(own or KeyError())):
        async with WorkerPool(three).share("age", asyncio.Event(), tally, runtime.policies):
            await work()
    assert children() == []
    assert asyncio.all_tasks() <= tasks
    assert ["KeyError" in note for note in tally.notes] == [True, True]


async def test_workers_that_are_cancelled_end(runtime: Runtime, saved: list[SagaSnapshot]) -> None:
    """Also where the run is cut short while it waits for them."""
    before = asyncio.all_tasks()

    async def share() -> None:
        async with WorkerPool(runtime.settings).share("age", asyncio.Event(), Tally(None), runtime.policies):
            pass

    sharing = asyncio.create_task(share())

    async def is_running() -> bool:
        return children() != []

    await eventually(is_running)
    sharing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sharing
    assert children() == []
    assert asyncio.all_tasks() <= before


async def test_workers_take_no_slot_of_a_daemon(runtime: Runtime, saved: list[SagaSnapshot]) -> None:
    """Eight daemons may be at work, and each has its workers."""
    leases, minute = runtime.catalog.leases, timedelta(minutes=1)
    for slot in range(JOBS["age"].slots):
        assert await leases.acquire(f"age/{slot}", "another daemon", minute) is not None
    tally = Tally(None)
    async with WorkerPool(runtime.settings).share("age", asyncio.Event(), tally, runtime.policies):
        pass
    assert tally.notes == []
    await check_archived(runtime, saved, every=10)
    assert (await run_job("age", runtime.job_context())).skipped


async def test_workers_follow_the_policies_of_the_run(runtime: Runtime) -> None:
    """Whatever the configuration of this process says meanwhile."""
    saved = await backlog(runtime, 5)
    policies = PolicySet(
        [policy.model_copy(update={"name": f"run-{policy.name}"}) for policy in runtime.settings.policies]
    )
    await put_policies_in_force(runtime.job_context().by(policies))
    tally = Tally(None)
    async with WorkerPool(runtime.settings).share("age", asyncio.Event(), tally, policies):
        pass
    assert tally.notes == []
    assert {row["policy"] for row in await runtime.db.fetch("SELECT policy FROM sagaz_tiering.packs")} == {"run-fast"}
    await check_archived(runtime, saved)


async def test_workers_do_nothing_by_policies_that_were_replaced(runtime: Runtime) -> None:
    """Another daemon put others in force after the run began."""
    saved = await backlog(runtime, 5)
    await put_policies_in_force(runtime.job_context().by(PolicySet(runtime.settings.policies[:2])))
    tally = Tally(None)
    async with WorkerPool(runtime.settings).share("age", asyncio.Event(), tally, runtime.policies):
        pass
    [note] = tally.notes
    assert "other policies were put in force" in note
    assert await left(runtime) == len(saved)


async def test_short_work_is_done_where_it_stands_and_long_work_is_not(runtime: Runtime) -> None:
    """Also in a process that is alone: its event loop renews leases and waits for Redis."""
    context = replace(runtime.job_context(), alone=True)
    here = threading.get_ident()
    assert await context.compute(INLINE_BYTES, threading.get_ident) == here
    assert await context.compute(INLINE_BYTES + 1, threading.get_ident) != here
    assert await replace(context, alone=False).compute(1, threading.get_ident) != here


@pytest.mark.parametrize("alone", [True, False])
async def test_pack_is_sealed_in_steps_so_that_others_are_served(
    runtime: Runtime, saved: list[SagaSnapshot], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that is alone, on the event loop, which goes on in between; elsewhere on a thread."""
    monkeypatch.setattr(format, "_STEP_BYTES", 1)
    turns, steps, read_back = 0, [], format._read_back

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def noted(*args: Any) -> Iterator[None]:
        for _ in read_back(*args):
            before = turns
            yield
            steps.append((threading.get_ident() == here, turns > before))

    monkeypatch.setattr(format, "_read_back", noted)
    here, task = threading.get_ident(), asyncio.create_task(others())
    await run_job("age", replace(runtime.job_context(), alone=alone))
    task.cancel()
    assert len(steps) > sum([total.packs for total in await runtime.catalog.packs.totals()])
    if alone:
        assert set(steps) == {(True, True)}
    else:
        assert {on_loop for on_loop, _ in steps} == {False}
