"""Which packs a run of `scrub` looks into: those of longest ago, as far as its budget goes, or all."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, timedelta

from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.terminal import counted


@dataclass(slots=True)
class Budget:
    """What a run may still spend: without a word as much as it wants."""

    requests: int = sys.maxsize
    bytes: int = sys.maxsize

    def take(self, requests: int, size: int) -> bool:
        """Whether there was so much left; it is gone now."""
        if self.requests < requests or self.bytes < size:
            return False
        self.requests -= requests
        self.bytes -= size
        return True


async def what_is_due(context: JobContext, tally: Tally) -> tuple[datetime, Budget, int]:
    """Which packs are looked into: those that were not since then, by this budget; how many that are."""
    jobs = context.settings.jobs
    if context.all_packs:
        before, budget = context.now - timedelta(microseconds=1), Budget()
    else:
        before, budget = context.now - jobs.scrub_cycle, Budget(jobs.scrub_requests, jobs.scrub_bytes)
    due, done = await context.catalog.scrubbing.due(before)
    if done and not context.all_packs:
        tally.add("packs_looked_into_before", done)
        tally.note(
            f"{counted(done, 'pack was', 'packs were')} looked into within jobs.scrub_cycle already; damage since then "
            "is not seen; all of them at once: sagaz-tiering job scrub --once --all"
        )
    return before, budget, due


def tell_left(context: JobContext, tally: Tally, due: int) -> None:
    """How many of those that are due it did not come to, and why."""
    left = due - tally.counts["packs_to_look_into"]
    if left > 0:
        why = "it was stopped" if context.stopping.is_set() else "jobs.scrub_requests or jobs.scrub_bytes is spent"
        tally.add("packs_left", left, note=f"{counted(left, 'pack is', 'packs are')} left to later runs: {why}")
