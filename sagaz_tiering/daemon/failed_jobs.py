"""Which jobs failed last, as /readyz tells it: until a run went well, whoever ran it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.daemon.health import Readiness
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import show_time


class FailedJobs:
    """Notes of `health`, one for each job whose last run here failed and that nobody has run well since."""

    def __init__(self, health: Readiness) -> None:
        self._health = health
        self._failed: dict[str, datetime] = {}

    def __bool__(self) -> bool:
        return bool(self._failed)

    def add(self, job: str, error: SagazTieringError, at: datetime) -> None:
        """A run of it failed at that time."""
        self._failed[job] = at
        then = f"`sagaz-tiering job {job} --once` tries it now" if error.permanent else "it is tried again by itself"
        self._health.note(_noted_as(job), [f"its last run failed: {error} (at {show_time(at)}; {then})"])

    def over(self, job: str) -> None:
        """A run of it went well."""
        self._failed.pop(job, None)
        self._health.note(_noted_as(job), [])

    def look(self, last_runs: Iterable[JobRun]) -> None:
        """What others ran well since, as the catalog has it, is over."""
        for run in last_runs:
            at = self._failed.get(run.job)
            if at is not None and run.started_at > at and run.is_over and run.error is None:
                self.over(run.job)


def _noted_as(job: str) -> str:
    return f"job {job}"
