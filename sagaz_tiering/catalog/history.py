"""What the jobs and the operators did, and what came of it.

Last runs per job, and which policy texts were in force since when (`History`); what was spent (`Spending`); and who
changed something in the console (`Audit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import orjson

from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load, to_column

_SQL = load(__package__, "history")
_AUDIT = load(__package__, "audit")
NEWEST = 2**63 - 1
_TEXTS = ("who", "address", "action", "subject", "reason", "outcome")
_SPENDING = load(__package__, "spending")


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
        self, job: str, now: datetime, *, error: str | None = None, stopped: str | None = None, summary: dict[str, Any]
    ) -> None:
        """The run ended: well, by an `error`, or `stopped` before its end."""
        texts = (None if text is None else to_column(text) for text in (error, stopped))
        await self._db.execute(_SQL["finished"], job, now, *texts, orjson.dumps(summary).decode())

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change. `outcome` is what came of it; None: the process ended before it was known."""

    audit_id: int
    at: datetime
    who: str
    address: str
    action: str
    subject: str
    reason: str
    outcome: str | None


class Audit(Repository):
    """The table `console_audit`."""

    async def begin(self, at: datetime, *, who: str, address: str, action: str, subject: str, reason: str) -> int:
        """Somebody asks for it; the entry's id. Raises CatalogUnavailable: then it is not to be done."""
        texts = map(to_column, (who, address, action, subject, reason))
        return int(await self._db.fetchval(_AUDIT["begin"], at, *texts))

    async def end(self, audit_id: int, outcome: str) -> None:
        """What came of it."""
        await self._db.execute(_AUDIT["end"], audit_id, to_column(outcome))

    async def page(self, limit: int, before: int = NEWEST) -> list[AuditEntry]:
        """The newest first, before an id."""
        return [of_row(AuditEntry, row, *_TEXTS) for row in await self._db.fetch(_AUDIT["page"], before, limit)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Requests and USD of one kind of work on one UTC day."""

    kind: str
    requests: int
    usd: float


class Spending(Repository):
    """The table `spending`."""

    async def spend(
        self, day: date, kind: str, requests: int, usd: float, *, most_requests: int | None, most_usd: float | None
    ) -> bool:
        """Count it, unless the day's total would be more than the limits (None: no limit); False if it was not.

        Processes that ask in the same instant may together exceed a limit by what they ask for.
        """
        counted = await self._db.fetchval(_SPENDING["spend"], day, kind, requests, usd, most_requests, most_usd)
        return counted is not None

    async def on(self, day: date) -> list[Spent]:
        """What was spent on a day, by kind."""
        return [Spent(**dict(row)) for row in await self._db.fetch(_SPENDING["spent_on"], day)]

    async def since(self, day: date) -> list[dict[str, Any]]:
        """`day`, `requests` and `usd` of each day from `day` on, JSON-ready, oldest first; no days without."""
        return [dict(row) for row in await self._db.fetch(_SPENDING["spent_since"], day)]
