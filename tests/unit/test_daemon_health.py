"""Readiness, and what the HTTP endpoints make of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.daemon import listening
from sagaz_tiering.daemon.health import STALE_AFTER, Problem, Readiness, serve
from sagaz_tiering.errors import CatalogUnavailable, ConfigError


class Seconds:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def health(seconds: Seconds) -> Readiness:
    return Readiness(seconds)


@pytest.fixture
async def address(health: Readiness) -> AsyncIterator[str]:
    async with serve("127.0.0.1", 0, health) as (host, port):
        yield f"http://{host}:{port}"


def servers(health: Readiness) -> list[str]:
    return [problem.server for problem in health.problems()]


async def test_health_is_bad_until_the_check_passed(health: Readiness) -> None:
    """A daemon that did not look yet is not ready, and says what the last look found."""
    assert servers(health) == ["start"]
    health.check_failed(CatalogUnavailable("PostgreSQL is gone", hint="start it"))
    assert health.problems() == [Problem(server="start", error="PostgreSQL is gone", hint="start it")]
    health.check_passed()
    assert health.problems() == []


async def test_health_names_the_server_that_does_not_answer(health: Readiness) -> None:
    """Only the bad server is named; when it answers again we are ready and `recovered` is set."""
    health.check_passed()
    health.pinged("redis", None)
    health.pinged("postgresql", CatalogUnavailable("gone"))
    assert servers(health) == ["postgresql"]
    assert not health.recovered.is_set()
    health.pinged("postgresql", None)
    assert servers(health) == []
    assert health.recovered.is_set()


async def test_health_does_not_believe_old_answers(health: Readiness, seconds: Seconds) -> None:
    """An answer is good for a minute."""
    health.check_passed()
    health.pinged("redis", None)
    seconds.now = STALE_AFTER.total_seconds()
    assert servers(health) == []
    seconds.now += 1
    assert servers(health) == ["redis"]


async def test_health_watch_turns_any_failure_of_a_ping_into_a_reason(health: Readiness) -> None:
    """A driver that breaks in its own way makes us unready, not dead."""
    health.check_passed()
    asked = asyncio.Event()

    async def broken() -> None:
        asked.set()
        raise ZeroDivisionError("a defect")

    watching = asyncio.create_task(health.watch({"redis": broken}))
    await asyncio.wait_for(asked.wait(), 300)
    await asyncio.sleep(0)
    assert not watching.done()
    watching.cancel()
    assert health.problems()[0].error == "ZeroDivisionError: a defect"


async def test_endpoints_answer_liveness_readiness_and_metrics(health: Readiness, address: str) -> None:
    """Liveness is always 200, readiness is 503 with reasons until ready, metrics are Prometheus text."""
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{address}/livez") as answer:
            assert answer.status == 200
        async with http.get(f"{address}/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"][0]["server"] == "start"
        health.check_passed()
        async with http.get(f"{address}/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": []})
        health.note("redis", ["it lost something"])
        async with http.get(f"{address}/readyz") as answer:
            told = [{"server": "redis", "error": "it lost something", "hint": ""}]
            assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": [], "degraded": told})
        async with http.get(f"{address}/metrics") as answer:
            assert answer.content_type == "text/plain"
            assert "sagaz_tiering_ready 1.0" in await answer.text()
        health.stopping()
        async with http.get(f"{address}/readyz") as answer:
            assert answer.status == 503


async def test_endpoints_say_which_address_is_taken(health: Readiness, address: str) -> None:
    """A port in use is an error of the configuration that names the port and the setting."""
    port = int(address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}") as caught:
        async with serve("127.0.0.1", port, health):
            pass
    assert "daemon.port" in caught.value.hint


async def half_a_request(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has sent half a header."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-a: ")
    await writer.drain()
    return reader, writer


async def test_endpoints_serve_others_while_half_requests_are_held_open(address: str) -> None:
    """More of them than there may be connections: the oldest give way, and no more are kept."""
    held = [await half_a_request(address) for _ in range(3 * listening.MOST_CONNECTIONS)]
    async with aiohttp.ClientSession() as http, http.get(f"{address}/livez") as answer:
        assert answer.status == 200
    for reader, _ in held[: 2 * listening.MOST_CONNECTIONS]:
        assert await reader.read() == b""
    for _, writer in held:
        writer.close()


async def test_endpoints_end_connections_that_send_no_whole_request(
    health: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the only one; one that asks again and again stays."""
    monkeypatch.setattr(listening, "REQUEST_WITHIN_S", 0.2)
    async with serve("127.0.0.1", 0, health) as (host, port):
        reader, writer = await half_a_request(f"http://{host}:{port}")
        async with aiohttp.ClientSession() as http:
            async with asyncio.timeout(300):
                assert await reader.read() == b""
            async with http.get(f"http://{host}:{port}/livez") as answer:
                assert answer.status == 200
        writer.close()


async def test_health_tells_what_others_know(seconds: Seconds) -> None:
    """Jobs that are overdue, for one."""
    known = [Problem(server="schedule", error="the job age should have begun 5m ago")]
    health = Readiness(seconds, lambda: known)
    health.check_passed()
    assert health.problems() == known


async def test_health_watch_ends_once_the_daemon_stops_though_a_driver_swallows_the_cancellation(
    health: Readiness,
) -> None:
    """redis-py can turn a cancellation that comes with a time-out into a time-out."""
    asked = asyncio.Event()

    async def swallowing() -> None:
        asked.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise TimeoutError from None

    watch = asyncio.create_task(health.watch({"redis": swallowing}))
    await asked.wait()
    health.stopping()
    watch.cancel()
    async with asyncio.timeout(300):
        while not watch.done():
            await asyncio.sleep(0)
            watch.cancel()
    assert watch.done()


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ran(began: datetime, **ended: Any) -> JobRun:
    return JobRun(
        job="scrub", **{"started_at": began, "finished_at": began + HOUR, "error": None, "summary": {}} | ended
    )


def test_failed_job_is_told_until_somebody_ran_it_well(health: Readiness) -> None:
    """Here, by hand or in another daemon, also where a window ended it; not while it runs, nor as it fails too."""
    health.job_failed("age", CatalogUnavailable("PostgreSQL is gone"), NOON)
    health.job_failed("scrub", ConfigError("no such bucket"), NOON)
    assert health.notes() == [
        Problem(
            server="job age",
            error="its last run failed: PostgreSQL is gone (at 2026-03-01 12:00:00Z; it is tried again by itself)",
        ),
        Problem(
            server="job scrub",
            error="its last run failed: no such bucket "
            "(at 2026-03-01 12:00:00Z; `sagaz-tiering job scrub --once` tries it now)",
        ),
    ]
    health.job_went_well("age")
    for still in (ran(NOON - HOUR), ran(NOON + HOUR, finished_at=NOON), ran(NOON + HOUR, error="no such bucket")):
        health.look_at_runs([still])
        assert [note.server for note in health.notes()] == ["job scrub"]
    health.look_at_runs([ran(NOON + HOUR, stopped="its window closed")])
    assert health.notes() == []
    assert not health.failed_jobs
