"""Who changed something in the console: written before it is done, with what came of it, and deleted by nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.text import to_column

_SQL = load(__package__, "audit")
NEWEST = 2**63 - 1
_TEXTS = ("who", "address", "action", "subject", "reason", "outcome")


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
        return int(await self._db.fetchval(_SQL["begin"], at, *texts))

    async def end(self, audit_id: int, outcome: str) -> None:
        """What came of it."""
        await self._db.execute(_SQL["end"], audit_id, to_column(outcome))

    async def page(self, limit: int, before: int = NEWEST) -> list[AuditEntry]:
        """The newest first, before an id."""
        rows = await self._db.fetch(_SQL["page"], before, limit)
        return [of_row(AuditEntry, row, *_TEXTS) for row in rows]
