"""What a reader must know before it trusts one server alone, looked up at most a few times a second.

Redis may miss something (a save that found it down is in PostgreSQL only), it may have lost its past (`incarnation`),
and other processes may move snapshots earlier than this one's policies say. Fallback writes and moves are announced in
PostgreSQL at least `FALLBACK_NOTICE` before they matter, so what was seen less than that ago holds. While PostgreSQL is
down nobody can announce anything, so the last knowledge holds on, as long as Redis is what it was; one that failed gets
a second for each look until it answers. Each look also learns which retention rules `expire` has accepted.

What was known before Redis was asked must hold still when its answer is there: then nothing came between. Under steady
reads the next look begins before the last one runs out, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sagaz_tiering.catalog.durable import FALLBACK_NOTICE
from sagaz_tiering.catalog.history import History
from sagaz_tiering.catalog.hot_saves import KnownRedis
from sagaz_tiering.config.units import micros
from sagaz_tiering.drivers.server_clock import uptime_s
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable, PolicyError, SagazTieringError
from sagaz_tiering.hot.incarnation import Incarnation
from sagaz_tiering.policy import Policy, PolicySet

_FRESH_SECONDS = FALLBACK_NOTICE.total_seconds() * 0.8
_LOOK_AFTER_SECONDS = _FRESH_SECONDS / 2
_FIRST_LOOK_SECONDS = 1.0
"""A process that saves for the first time waits so long at most to learn which Redis it is."""
_SAVE_WAITS_SECONDS = 0.25
"""So long a save waits for PostgreSQL to say which holds are in force."""
_ALWAYS = -(2**62)
"""Complete since ever: nothing was ever moved away from Redis."""
_JUST_NOW_SECONDS = 0.1
"""A reader whom Redis did not answer asks it no second time on its further way, each for a whole deadline."""
_UNKNOWN = KnownRedis(nonce=None, number=0, run_id="", trusted=False, fallback=True, changes=-1)
PAUSE_S: Final = 1.0


class Pause:
    """A server that failed is left alone until it answers again, so that an outage costs callers its deadline once.

    `begin` when it failed; it `is_on` until `look`, asked in the background PAUSE_S later and after, raises nothing.

    Nobody waits for a look. After the first one they are only taken while somebody asks, PAUSE_S apart.
    """

    def __init__(self, look: Callable[[], Awaitable[object]]) -> None:
        self._look = look
        self._on = False
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        """Whether to leave it alone."""
        is_idle = self._on and self._timer is None and self._looking is None
        if is_idle and asyncio.get_running_loop().time() - self._looked_at >= PAUSE_S:
            self._start()
        return self._on

    def begin(self, seconds: float = PAUSE_S) -> None:
        """It failed."""
        self._on = True
        if self._timer is None and self._looking is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._start)

    def end(self) -> None:
        """It answered."""
        self._on = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._timer = None
        self._looking = asyncio.create_task(self._ask())
        self._looking.add_done_callback(self._asked)

    async def _ask(self) -> None:
        try:
            await self._look()
        except SagazTieringError:
            self._looked_at = asyncio.get_running_loop().time()
            return  # whoever asks next has it looked at again
        self.end()

    def _asked(self, look: asyncio.Task[None]) -> None:
        self._looking = None
        if not look.cancelled():
            look.exception()  # the driver's own: those who ask are told


@dataclass(frozen=True, slots=True)
class Known:
    """What was known at an instant of `uptime_s`, which counts on while the machine sleeps, over the connections of a
    generation.
    """

    look: KnownRedis
    seen_at: float
    generation: int


class Freshness:
    """Answers how far Redis alone may be trusted."""

    def __init__(
        self, looking: Incarnation, history: History, first_after: timedelta | None, catalog_pause: Pause
    ) -> None:
        self._looking_at = looking
        self._catalog_pause = catalog_pause
        self._history = history
        self._first_after_us = None if first_after is None else micros(first_after)
        self._last: Known | None = None
        self._failed: tuple[float, HotTierUnavailable] | None = None
        self._revisions: dict[str, PolicySet | None] = {}
        self._accepted_number: int | None = None
        self._accepted: PolicySet | None = None
        self._rules: PolicySet | None = None
        self._looking: asyncio.Task[None] | None = None
        self._waited: asyncio.Task[None] | None = None
        self._gave_up: asyncio.Task[None] | None = None

    def follow(self, first_after: timedelta | None) -> None:
        """This process has other policies now; `first_after` is the age of their youngest move."""
        self._first_after_us = None if first_after is None else micros(first_after)
        self._last = None

    async def known(self) -> Known:
        """What is known now, for `complete_since_us` and `believes` once Redis has answered.

        Raises CatalogUnavailable if PostgreSQL is down and was not asked once since the start, HotTierUnavailable if
        Redis is down and must be looked at.
        """
        known = self.known_by_now()
        if known is not None:
            return known
        if self._failed is not None and uptime_s() - self._failed[0] < _JUST_NOW_SECONDS:
            raise copy(self._failed[1]) from self._failed[1]
        await self._look_together()
        if self._age() > _FRESH_SECONDS:  # that one had begun before we came
            await self._look_together()
        assert self._last is not None  # a look that fails raises
        return self._last

    def known_by_now(self) -> Known | None:
        """What `known` answers, without waiting; None where it must look first."""
        age = self._age()
        if age > _FRESH_SECONDS:
            return None
        if age > _LOOK_AFTER_SECONDS:
            self._look_soon()
        return self._last

    @property
    def changes(self) -> int | None:
        """How often Redis was found to be another one, as far as is known here."""
        return None if self._last is None else self._last.look.changes

    @property
    def held(self) -> tuple[str, ...]:
        """The matches (JSON) of the legal holds in force, as of the last look."""
        return () if self._last is None else self._last.look.held

    @property
    def is_look_due(self) -> bool:
        """Whether nobody looked lately."""
        return self._age() > _LOOK_AFTER_SECONDS

    async def look_before_save(self) -> None:
        """Begin a look, and wait for it a moment where what is known ran out (once for one that takes longer): then
        what was known before holds on. The first look of this process is waited for longer, by all together.
        """
        if self._last is None:
            await self.first_look(_FIRST_LOOK_SECONDS)
        look = self._look_soon()
        if self._age() > _FRESH_SECONDS and look is not self._gave_up:
            done, _ = await asyncio.wait((look,), timeout=_SAVE_WAITS_SECONDS)
            self._gave_up = None if done else look

    async def first_look(self, seconds: float) -> None:
        """Wait for the first look of this process, all together for so long at most, whatever comes of it."""
        if self._waited is None:
            self._waited = asyncio.create_task(asyncio.sleep(seconds))
        if not self._waited.done():
            await asyncio.wait((self._look_soon(), self._waited), return_when=asyncio.FIRST_COMPLETED)
            self._waited.cancel()

    @property
    def held_by_end(self) -> bool:
        """Whether any hold in force looks at where sagas end, as far as the last look told."""
        if self._last is None:
            return True
        return any('"outcome"' in match or '"attributes"' in match for match in self._last.look.held)

    def believes(self, known: Known) -> bool:
        """Whether what Redis has answered since is all of its own past, deletions included.

        While PostgreSQL takes saves in its place it is not: Redis may have an older save of what was deleted there.
        """
        look = known.look
        return look.trusted and not look.fallback and known.generation == self._looking_at.generation

    async def complete_since_us(self, known: Known, now_us: int) -> int | None:
        """Redis, asked since, had every snapshot created after this instant; None: it cannot be trusted alone at all.

        Raises as `known`, where the answer took so long that it must look again.
        """
        if not self.believes(known):
            return None
        if uptime_s() - known.seen_at > _FRESH_SECONDS:
            later = await self.known()
            if not self.believes(later) or later.look.changes != known.look.changes or not self.believes(known):
                return None
        return self._since(now_us)

    def complete_by_now(self, known: Known, now_us: int) -> int | None:
        """What `complete_since_us` answers, without waiting; None where only that can tell."""
        if uptime_s() - known.seen_at > _FRESH_SECONDS or not self.believes(known):
            return None
        return self._since(now_us)

    def _since(self, now_us: int) -> int:
        return _ALWAYS if self._first_after_us is None else now_us - self._first_after_us

    async def has_newer(self, known: Known, than_us: int | None, now_us: int) -> bool:
        """Whether Redis, asked since, had every snapshot created after `than_us`; None: every one there ever was."""
        complete_since = await self.complete_since_us(known, now_us)
        if than_us is None:
            return complete_since == _ALWAYS and not known.look.packed
        return complete_since is not None and than_us > complete_since

    def rules(self, policies: PolicySet) -> PolicySet:
        """By which policies snapshots expire, as far as the last look told: `policies`, and those accepted before."""
        if self._rules is None or self._rules.policies is not policies.policies:
            self._rules = policies.honouring(self._accepted)
        return self._rules

    def _age(self) -> float:
        if self._last is None or self._last.generation != self._looking_at.generation:
            return 2**31
        return uptime_s() - self._last.seen_at

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
        try:
            await self._look_at_both()
        except HotTierUnavailable as exc:
            self._failed = uptime_s(), exc
            raise
        self._failed = None

    async def _look_at_both(self) -> None:
        asked_at = uptime_s()
        try:
            async with asyncio.timeout(PAUSE_S if self._catalog_pause.is_on else None):
                found = await self._looking_at.look()
                await self._learn_rules(found.accepted)
            self._catalog_pause.end()
        except (CatalogUnavailable, TimeoutError) as exc:
            self._catalog_pause.begin()
            if self._last is None:
                if isinstance(exc, CatalogUnavailable):
                    raise
                why = f"PostgreSQL failed a moment ago, and did not answer within {PAUSE_S:g} s"
                raise CatalogUnavailable(why) from exc
            asked_at = uptime_s()
            found = self._last.look if await self._looking_at.is_same() else _UNKNOWN
        self._last = Known(found, asked_at, self._looking_at.looked_over)
        if found.first_after is not None:
            after_us = micros(found.first_after)
            self._first_after_us = after_us if self._first_after_us is None else min(after_us, self._first_after_us)

    async def _learn_rules(self, number: int | None) -> None:
        if number is None or number == self._accepted_number:
            return
        accepted = await self._history.accepted_retention(self._accepted_number)
        if accepted is not None:
            self._accepted_number, self._rules = accepted[0], None
            with suppress(PolicyError):  # rules of a newer version: its own processes honour them
                self._accepted = PolicySet.of_retention_text(accepted[1])

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
