"""All checks: side by side, each with a deadline, each failing for itself alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial
from pathlib import Path

from sagaz_tiering.app.parts import open_parts
from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.config.load import load_with_warnings
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.costs.prices import minimum_durations
from sagaz_tiering.doctor.finding import Check, Finding, Findings, Level
from sagaz_tiering.doctor.hot_tier import check_hot_tier
from sagaz_tiering.doctor.machine import check_folders, check_packages, check_policies
from sagaz_tiering.doctor.object_store import check_object_store
from sagaz_tiering.doctor.postgresql import check_encryption, check_postgresql
from sagaz_tiering.errors import SagazTieringError, TierUnavailable

DEADLINE = timedelta(seconds=30)
"""Of each group of checks."""
_CALL = timedelta(seconds=10)
"""Of one call to PostgreSQL or the object store: a person waits."""
_TICK_S = 0.1


async def examine(path: Path, *, deadline: timedelta = DEADLINE, clock: Clock | None = None) -> list[Finding]:
    """Everything that the deployment described by the file at `path` needs, and how it is; nothing is raised.

    Writes only what `probe` writes and removes. No secret is in any finding.
    """
    clock = clock or SystemClock()
    findings = await _carried_out("packages", check_packages, deadline)
    try:
        config, warnings = await asyncio.to_thread(load_with_warnings, path, minimum_durations)
    except SagazTieringError as exc:
        findings.failed("configuration", exc)
        return findings
    findings += await _side_by_side(
        {"policy": partial(check_policies, config, warnings, clock.now()), "folders": partial(check_folders, config)},
        deadline,
    )
    with findings.guarded("embedded"):
        async with open_parts(_hurried(config, deadline), clock=clock) as parts:
            checks: dict[str, Check] = {
                "redis": partial(check_hot_tier, parts),
                "postgresql": partial(check_postgresql, parts, caches=config.catalog.statement_cache),
                "object_store": partial(check_object_store, parts),
                "encryption": partial(check_encryption, parts),
            }
            findings += await _side_by_side(checks, deadline)
    return findings


def _hurried(config: TieringConfig, deadline: timedelta) -> TieringConfig:
    """The same with shorter deadlines for single calls, and without what a pooler may break: that is to be told."""
    most = min(_CALL, deadline / 2)
    return config.with_settings(
        {
            "tiers.cold.request_timeout": min(config.tiers.cold.request_timeout, most),
            "tiers.cold.connect_timeout": min(config.tiers.cold.connect_timeout, most),
            "catalog.command_timeout": min(config.catalog.command_timeout, most),
            "catalog.statement_cache": False,
        }
    )


async def _side_by_side(checks: dict[str, Check], deadline: timedelta) -> list[Finding]:
    """Each check's findings. A server that could not be reached is asked once more when all else is done.

    Side by side checks hold each other up: the SDK reads its descriptions for a good part of a second, and a driver's
    own deadline may pass meanwhile with the answer waiting.
    """
    found = await asyncio.gather(*(_carried_out(subject, check, deadline) for subject, check in checks.items()))
    by_subject = dict(zip(checks, found, strict=True))
    for subject, each in by_subject.items():
        if _is_unreached(subject, each):
            by_subject[subject] = await _carried_out(subject, checks[subject], deadline)
    return [each for one in by_subject.values() for each in one]


def _is_unreached(subject: str, findings: list[Finding]) -> bool:
    """Nothing was found but that the server did not answer."""
    bad = [each for each in findings if each.level is Level.ERROR and each.exit_code == TierUnavailable.exit_code]
    return [each.subject for each in bad] == [f"{subject}.reachable"]


async def _carried_out(subject: str, check: Check, deadline: timedelta) -> Findings:
    """What a check finds; what stops it is a finding beside those that came before."""
    found = Findings()
    try:
        await _within(deadline.total_seconds(), check(found))
    except TimeoutError:
        text = f"not answered within {deadline.total_seconds():g} s"
        found.error(f"{subject}.deadline", text, "is the server overloaded, or behind a firewall?", exit_code=4)
    except Exception as exc:  # noqa: BLE001  # a check ends here: whatever happened is its result
        found.failed(subject if found else f"{subject}.reachable", exc)
    return found


async def _within(seconds: float, work: Awaitable[None]) -> None:
    """Raise TimeoutError once `work` has had so many seconds in which this process looked at it.

    Only time in which the event loop runs counts: a machine that is busy or asleep says nothing of a server.
    """
    tick = min(_TICK_S, seconds / 4)
    task, had = asyncio.ensure_future(work), 0.0
    try:
        while not task.done() and had < seconds:
            began = time.monotonic()
            await asyncio.wait((task,), timeout=tick)
            had += min(time.monotonic() - began, 2 * tick)
    finally:
        timed_out = task.cancel()
        await asyncio.wait((task,))
    if timed_out:
        if not task.cancelled():
            task.exception()  # of its clean-up; it is looked at, so that the loop does not tell of it
        raise TimeoutError
    task.result()
