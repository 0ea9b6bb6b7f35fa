"""What a reader must know before it trusts one server alone, looked up at most a few times a second.

Redis may miss something (a save that found it down is in PostgreSQL only), and other processes may move
snapshots earlier than this one's policies say. Both are announced in PostgreSQL at least `SPILL_NOTICE` before
they matter, so what was seen less than that ago holds. While PostgreSQL is down nobody can announce anything,
so the last knowledge holds on.

Under steady reads the next look begins before the last one runs out, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection
from datetime import timedelta

from sagaz_tiering.catalog.durable import SPILL_NOTICE
from sagaz_tiering.catalog.history import History
from sagaz_tiering.errors import CatalogUnavailable, PolicyError
from sagaz_tiering.policy import Policy, PolicySet
from sagaz_tiering.units import micros

_FRESH_SECONDS = SPILL_NOTICE.total_seconds() * 0.8
_LOOK_AFTER_SECONDS = _FRESH_SECONDS / 2


class Watch:
    """Answers how far Redis alone may be trusted."""

    def __init__(self, history: History, first_after: timedelta | None) -> None:
        self._history = history
        self._first_after = first_after
        self._spilled = True
        self._seen_at: float | None = None
        self._revisions: dict[str, PolicySet | None] = {}
        self._looking: asyncio.Task[None] | None = None

    def follow(self, first_after: timedelta | None) -> None:
        """This process has other policies now; `first_after` is the age of their youngest move."""
        self._first_after = first_after
        self._seen_at = None

    async def horizon_us(self, now_us: int) -> int | None:
        """Redis has every snapshot created after this instant; None: it cannot be trusted alone at all.

        Raises CatalogUnavailable if PostgreSQL is down and was not asked once since the start.
        """
        age = self._age()
        if age > _FRESH_SECONDS:
            await self._look_together()
            if self._age() > _FRESH_SECONDS:  # that one had begun before we came
                await self._look_together()
        elif age > _LOOK_AFTER_SECONDS:
            self._look_soon()
        if self._spilled:
            return None
        return -(2**62) if self._first_after is None else now_us - micros(self._first_after)

    def _age(self) -> float:
        return 2**31 if self._seen_at is None else time.monotonic() - self._seen_at

    def _look_soon(self) -> asyncio.Task[None]:
        """The look that is under way, or a new one."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        return self._looking

    def _looked(self, look: asyncio.Task[None]) -> None:
        self._looking = None
        if not look.cancelled():
            look.exception()  # who waits is told; if nobody does, the next one who must know looks anew

    async def _look_together(self) -> None:
        look = self._look_soon()
        await asyncio.wait((look,))  # not the task itself: a cancelled reader does not end it for the others
        look.result()

    async def _look(self) -> None:
        asked_at = time.monotonic()
        try:
            spilled, first_after = await self._history.watch()
        except CatalogUnavailable:
            if self._seen_at is None:
                raise
            self._seen_at = asked_at
            return
        self._seen_at, self._spilled = asked_at, spilled
        if first_after is not None and (self._first_after is None or first_after < self._first_after):
            self._first_after = first_after

    async def ever_hot_only(self, saga_names: Collection[str | None]) -> bool:
        """Whether any policies ever in force acknowledged such a snapshot (None: any) in Redis alone.

        Asked when Redis is down: today's policies may be stricter than those that an old snapshot was saved under.
        """
        for revision, text in (await self._history.hot_revisions()).items():
            rules = self._revisions.get(revision) or self._revisions.setdefault(revision, _read(text))
            if rules is None or any(rules.may_be_hot_only(name) for name in saga_names):
                return True
        return False


def _read(policies: str) -> PolicySet | None:
    """A remembered revision; None where this version cannot read it any more."""
    try:
        return PolicySet([Policy.model_validate(policy) for policy in json.loads(policies)])
    except (ValueError, PolicyError):
        return None
