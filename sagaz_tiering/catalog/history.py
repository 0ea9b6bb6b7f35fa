"""What the jobs and the operators did: last runs per job, and which policy texts were in force since when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.text import to_column

_SQL = load(__package__, "jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """The last run of a job; `finished_at` may be older than `started_at` while one is under way.

    `error` is what went wrong, `stopped` what else ended it early: its window, the day's budget, a stop.
    """

    job: str
    started_at: datetime
    finished_at: datetime | None
    error: str | None
    summary: dict[str, Any] | None
    stopped: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it ended, well or not; a run that was killed never did."""
        return self.finished_at is not None and self.finished_at >= self.started_at

    @property
    def ended_well(self) -> bool:
        """Whether it came to its end."""
        return self.error is None and self.stopped is None and self.is_over


class History(Repository):
    """`job_runs`, `policy_revisions` and `accepted_retention`."""

    async def started(self, job: str, now: datetime) -> None:
        """A run of `job` began."""
        await self._db.execute(_SQL["started"], job, now)

    async def finished(
        self,
        job: str,
        now: datetime,
        *,
        error: str | None = None,
        stopped: str | None = None,
        summary: Mapping[str, Any],
    ) -> None:
        """The run ended: well, by an `error`, or `stopped` before its end."""
        texts = (None if text is None else to_column(text) for text in (error, stopped))
        await self._db.execute(_SQL["finished"], job, now, *texts, orjson.dumps(dict(summary)).decode())

    async def last_runs(self) -> list[JobRun]:
        """The last run of every job that ever ran, by name."""
        return [_run_of(row) for row in await self._db.fetch(_SQL["last_runs"])]

    async def newest_revision(self) -> str | None:
        """The policy revision that was last put in force."""
        revision: str | None = await self._db.fetchval(_SQL["newest_revision"])
        return revision

    async def remember_revision(
        self, revision: str, policies: str, first_after: timedelta | None, now: datetime
    ) -> None:
        """`revision` (its policies as JSON text, its youngest move) is in force since `now`."""
        await self._db.execute(_SQL["remember_revision"], revision, now, first_after, policies)

    async def accepted_retention(self, known: int | None = None) -> tuple[int, str] | None:
        """The retention rules that `expire` accepted last (see `PolicySet.retention_text`), and their number.

        None: there are none, or they are number `known`.
        """
        row = await self._db.fetchrow(_SQL["accepted_retention"], known)
        return None if row is None else (row["number"], row["policies"])

    async def accept_first(self, retention: str, now: datetime) -> None:
        """Accept these rules if there are none yet."""
        await self._db.execute(_SQL["accept_first"], now, retention)

    async def accept(self, retention: str, now: datetime) -> None:
        """From now on these rules say when snapshots expire."""
        await self._db.execute(_SQL["accept"], now, retention)

    async def hot_revisions(self) -> dict[str, str]:
        """Revisions, ever in force, that acknowledged something in Redis alone: their policies as JSON text."""
        return {row["revision"]: row["policies"] for row in await self._db.fetch(_SQL["hot_revisions"])}


def _run_of(row: Any) -> JobRun:
    summary = orjson.loads(row["summary"]) if row["summary"] else None
    return of_row(JobRun, row, "error", "stopped", summary=summary)
