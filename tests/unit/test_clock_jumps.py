"""A day of a daemon whose wall clock jumps by minutes, hours and years: every job runs as if it did not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.day_of_jumps import DAY_S, LOOK_EVERY_S, STOPPED_S, Day, day_of_jumps

from sagaz_tiering.config.schedule import Schedule
from sagaz_tiering.daemon.schedule import OVERDUE_AFTER
from sagaz_tiering.jobs import JOBS

SEED = 7
TIMER_S = 1e-3
"""What a timer of the loop may be early or late by, in virtual time."""
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")) if shutil.which("faketime") else []


@pytest.fixture(scope="module", params=["clock of the daemon", "clock of the process"])
def day(request: pytest.FixtureRequest) -> Day:
    """One day: with a clock that is an argument, and where libfaketime is installed with that of a whole process."""
    if request.param == "clock of the daemon":
        return day_of_jumps(SEED)
    if not FAKETIME:
        pytest.skip("libfaketime is not installed")
    environ = {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME": "+0",
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "BOOTED": str(time.time() - time.monotonic()),
        "TZ": "Europe/Berlin",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    program = [sys.executable, "-m", "support.day_of_jumps", str(SEED)]
    done = subprocess.run(program, env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Day(**json.loads(done.stdout))


def test_every_job_runs_as_often_as_the_uptime_allows(day: Day) -> None:
    """Never early, late or twice at once, however the wall clock jumps and wherever it stands at a restart."""
    assert day.jumps > 70
    assert day.wall_span_s > 2 * 365 * DAY_S
    assert len(day.restarts) == 4
    assert day.doubled == 0
    for job in (name for name, each in JOBS.items() if each.scheduled):
        when = getattr(Schedule(), job)
        every_s, jitter_s = when.every.total_seconds(), when.jitter.total_seconds()
        starts, ends = day.starts[job], day.ends[job]
        assert starts[0] < len(JOBS)  # it never ran: at once, one after the other
        for before, ended, after in zip(starts, ends, starts[1:], strict=False):
            stood_s = sum(STOPPED_S for at in day.stops if before < at <= after)
            restart = next((at for at in day.restarts if before < at <= after), None)
            if restart is not None:  # the last run's end may be years ahead of the clock, or behind it
                assert after - restart < every_s + jitter_s + stood_s + TIMER_S, job
                continue
            assert after - before > every_s - TIMER_S, job
            assert after < max(before + every_s + jitter_s, ended) + stood_s + TIMER_S, job
        last = max(starts[-1], *day.restarts)
        assert DAY_S - last < every_s + jitter_s + LOOK_EVERY_S, job


def test_readyz_says_overdue_only_of_a_daemon_that_stood_still(day: Day) -> None:
    """A jump of the clock makes nothing overdue; ten minutes in which nothing ran do, until the jobs have begun."""
    assert day.looks > 3000
    assert day.stops
    assert OVERDUE_AFTER.total_seconds() < STOPPED_S
    assert day.told_overdue == day.stops
