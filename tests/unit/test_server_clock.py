"""The catalog server's clock: measured, growing in between, and not believed when it jumps."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from support.clocks import Servers, Uptime

from sagaz_tiering.drivers.server_clock import AGREEING

pytestmark = pytest.mark.guarantee("G11")
YEAR = timedelta(days=365)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def servers() -> Servers:
    """Both right."""
    return Servers(Uptime())


async def test_time_is_the_servers_whatever_the_host_says(servers: Servers) -> None:
    """To half of the shortest round trip; and it goes on between measurements."""
    clock = servers.clock(host_ahead=YEAR)
    async with clock:
        assert clock.sure
        assert abs(clock.now() - servers.true()) <= timedelta(milliseconds=1)
        assert abs(clock.host_ahead - YEAR) <= timedelta(milliseconds=1)
        servers.trip_s = 1.0
        servers.pass_time(MINUTE)
        assert await clock.confirm()
        assert abs(clock.now() - servers.true()) <= timedelta(milliseconds=10), "the short trip of before counts"


async def test_jump_is_not_believed_before_three_measurements_agree(servers: Servers) -> None:
    """Until then the time goes on as it was, and is not sure."""
    async with servers.clock() as clock:
        servers.catalog_ahead = YEAR
        servers.pass_time(MINUTE)
        for _ in range(AGREEING - 1):
            assert not await clock.confirm()
            assert abs(clock.now() - servers.true()) < MINUTE
            servers.pass_time(MINUTE)
        assert await clock.confirm()
        assert abs(clock.now() - servers.true() - YEAR) < MINUTE


async def test_measurements_that_disagree_with_each_other_are_never_believed(servers: Servers) -> None:
    """A server whose clock goes to and fro, or a pooler between two of them."""
    async with servers.clock() as clock:
        for ahead in (YEAR, 2 * YEAR, YEAR, timedelta(), YEAR, timedelta(), YEAR):
            servers.catalog_ahead = ahead
            servers.pass_time(MINUTE)
            assert not await clock.confirm()
        servers.catalog_ahead = timedelta()
        assert [await clock.confirm() for _ in range(AGREEING)] == [False, False, True]


async def test_one_measurement_is_not_enough_after_a_start_without_a_server(servers: Servers) -> None:
    """Redis' time stands in until PostgreSQL tells its own, the host's where neither does."""
    servers.catalog_away = servers.redis_away = True
    async with servers.clock(host_ahead=YEAR) as clock:
        assert clock.to_dict()["source"] == "host"
        assert abs(clock.now() - servers.true() - YEAR) < MINUTE
        servers.redis_away = False
        assert not await clock.confirm()
        assert clock.to_dict()["source"] == "redis"
        assert abs(clock.now() - servers.true()) < MINUTE
        servers.catalog_away = False
        assert [await clock.confirm() for _ in range(AGREEING)] == [False, False, True]
        assert clock.to_dict()["source"] == "catalog"


async def test_last_offset_goes_on_while_the_server_is_away(servers: Servers) -> None:
    """Sure as before: uptime does not jump. Back after a day, what it drifted is no jump."""
    async with servers.clock(host_ahead=YEAR) as clock:
        servers.catalog_away = True
        servers.pass_time(timedelta(days=1))
        assert await clock.confirm()
        assert abs(clock.now() - servers.true()) < timedelta(milliseconds=1)
        servers.catalog_away, servers.catalog_ahead = False, timedelta(seconds=8)
        assert await clock.confirm()


async def test_time_does_not_step_back_for_a_small_correction(servers: Servers) -> None:
    """It is held until the server's time has come so far."""
    async with servers.clock() as clock:
        before = clock.now()
        servers.trip_s = 0.0
        servers.catalog_ahead = -timedelta(milliseconds=500)
        assert await clock.confirm()
        assert clock.now() == before
        servers.pass_time(timedelta(seconds=1))
        assert before < clock.now() < servers.true()


async def test_clock_of_a_run_does_not_follow_corrections(servers: Servers) -> None:
    """What was made sure of at its start holds to its end."""
    async with servers.clock() as clock:
        fixed = clock.fixed()
        servers.catalog_ahead = YEAR
        for _ in range(AGREEING):
            await clock.confirm()
        assert abs(clock.now() - servers.true() - YEAR) < MINUTE
        servers.pass_time(MINUTE)
        assert abs(fixed.now() - servers.true()) < timedelta(seconds=1)


async def test_host_that_is_off_is_told_once_per_change(servers: Servers) -> None:
    """And again when it is right."""
    with capture_logs() as logs:
        async with servers.clock(host_ahead=timedelta(minutes=2)) as clock:
            await clock.measure()
            servers.host_ahead = timedelta()
            await clock.measure()
            await clock.measure()
    told = [entry["event"] for entry in logs]
    assert told.count("clock.host_off") == 1
    assert told.count("clock.host_right") == 1


def test_clock_is_closed_where_its_loop_is_gone(servers: Servers) -> None:
    """What measured for it ended with that loop; the last offset goes on."""
    clock = servers.clock(host_ahead=YEAR)
    asyncio.run(clock.__aenter__())
    asyncio.run(clock.__aexit__())
    assert abs(clock.now() - servers.true()) <= timedelta(milliseconds=1)
