"""Processes that share a large backlog: they do their part, stop when they are told, and lose nothing when they die."""

from __future__ import annotations

import asyncio
import pickle
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs
from support.payload import snapshots
from support.tiers import config

from sagaz_tiering.db.migrations import migrate
from sagaz_tiering.engine import age, run_job
from sagaz_tiering.engine.job import Tally
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.settings import TieringConfig
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.wiring import Runtime, open_runtime
from sagaz_tiering.workers import Workers

SAGAS = 60
MANY = 400
LONG_AGO = datetime.now(UTC) - timedelta(days=30)  # workers have the real clock


@pytest.fixture
def settings(database: str, redis_url: str, tmp_path: Path) -> TieringConfig:
    """Two processes, packs of a few sagas."""
    cold = {"url": f"file://{tmp_path / 'cold'}", "pack": {"target": 8 * 1024, "max_frame": 8 * 1024}}
    jobs = {"processes": 2, "batch_sagas": 2, "claim_ttl": "1s", "lease_ttl": "1s"}
    return config(database=database, redis_url=redis_url, cold=cold, jobs=jobs)


@pytest.fixture
async def runtime(settings: TieringConfig) -> AsyncIterator[Runtime]:
    """Open, with the real clock."""
    async with open_runtime(settings) as opened:
        await migrate(opened.db)
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
    return [each for each in psutil.Process(pid).children() if "sagaz_tiering.worker_process" in each.cmdline()]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what another process does; fail after a while."""
    deadline = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_workers_do_it_all_if_this_process_does_nothing(runtime: Runtime, saved: list[SagaSnapshot]) -> None:
    """Every snapshot goes into packs by the worker, and its counts come to the one who asked."""
    tally = Tally(None)
    async with Workers(lambda: runtime.config).share("age", asyncio.Event(), tally, runtime.policies):
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
        await eventually(lambda: _are_taken(runtime, len(saved)))
        shared.set()
        await real(*args)

    monkeypatch.setattr(age, "run_share", wait_for_worker)
    report = await run_job("age", runtime.job_context())
    assert shared.is_set()
    assert report.counts["archived"] == report.counts["evicted"] == len(saved)
    await check_archived(runtime, saved)


async def _are_taken(runtime: Runtime, count: int) -> bool:
    return await left(runtime) < count


async def test_small_backlog_is_not_shared(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process takes longer to begin than the work does."""

    def fail(*_args: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(Workers, "share", fail)
    await run_job("age", runtime.job_context())
    await check_archived(runtime, saved)


async def test_killed_worker_is_told_and_loses_nothing(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on, its report says it; what the worker had claimed is packed once its claims have run out."""
    monkeypatch.setattr(age, "WORTH_SHARING", SAGAS)
    real = age.run_share

    async def kill_worker(*args: Any) -> None:
        await eventually(lambda: _are_taken(runtime, len(saved)))
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
    async with Workers(lambda: runtime.config).share("age", stopping, tally, runtime.policies):
        await eventually(lambda: _are_taken(runtime, len(saved)))
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
        "from sagaz_tiering.workers import Workers\nfrom sagaz_tiering.engine.job import Tally\n"
        "from sagaz_tiering.policy import PolicySet\n"
        "config = pickle.load(sys.stdin.buffer)\n"
        "async def main():\n"
        "    policies = PolicySet(config.policies)\n"
        "    async with Workers(lambda: config).share('age', asyncio.Event(), Tally(None), policies):\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
    assert parent.stdin is not None
    parent.stdin.write(pickle.dumps(runtime.config))
    await parent.stdin.drain()
    parent.stdin.close()
    await eventually(lambda: _are_taken(runtime, len(saved)))
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
    tiers = runtime.config.tiers
    cold = tiers.cold.model_copy(update={"url": f"file://{tmp_path / 'elsewhere'}"})
    await runtime.reload(
        runtime.config.model_copy(update={"tiers": tiers.model_copy(update={"cold": cold}), "policies": ()})
    )
    policies = PolicySet(config(database="postgresql://x", redis_url="redis://x", cold=tmp_path).policies)
    workers = runtime.job_context().workers
    assert workers is not None
    async with workers.share("age", asyncio.Event(), Tally(None), policies):
        pass
    await check_archived(runtime, saved)


async def test_error_of_a_worker_is_told(
    runtime: Runtime, saved: list[SagaSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot work says why, and holds up nobody."""
    url = "redis://127.0.0.1:1/0"
    hot = runtime.config.tiers.hot.model_copy(update={"url": type(runtime.config.tiers.hot.url)(url)})
    broken = runtime.config.model_copy(update={"tiers": runtime.config.tiers.model_copy(update={"hot": hot})})
    tally = Tally(None)
    async with Workers(lambda: broken).share("age", asyncio.Event(), tally, runtime.policies):
        pass
    [note] = tally.notes
    assert "HotTierUnavailable" in note
    report = await run_job("age", runtime.job_context())
    assert report.counts["evicted"] == len(saved)
