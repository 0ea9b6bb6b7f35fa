"""Whether Redis is the one that the catalog knows, with all that it had: looked at now and then by every process.

A look reads what the catalog knows, then raises the number in Redis, then tells the catalog how far it has come: what
the catalog says was in Redis before it was read, so processes that look at once do not alarm each other. A Redis with
another nonce, another run id or a number that is not above the catalog's may have lost anything it had; from then on
no process believes it alone, until the job `reconcile` has put that right.

What Redis carries for that among the snapshots is a nonce and a number, beside the id of its process: one that was
started from an older file has an older number, an empty one has no nonce, and one that was started again or took over
has another run id.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from uuid import uuid4

from sagaz_tiering import metrics
from sagaz_tiering.catalog.hot_saves import KnownHotTier, KnownRedis, change, knows_nothing
from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.logs import Logger

_log = Logger(__name__)
_NOTED_EVERY_S = 1.0
_MOST_TRIES = 3
_READ_ONLY, _PUT_ASIDE = 1, 2
_HINT = "`reconcile` puts it right; reads ask PostgreSQL"
_RESTARTED = "it was started anew, or another server took over"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisIdentity:
    """What Redis says of itself. `nonce` None: nobody was here before; `run_id` "": it does not tell.

    `number` is above that of the last look, or the same while nothing can be written (`can_write`); `seen_us` is when
    it was last seen with all it should have (None: never, as far as it knows).
    """

    nonce: str | None
    number: int
    run_id: str
    seen_us: int | None
    can_write: bool = True


class Incarnation:
    """Looks at the catalog and Redis together."""

    def __init__(self, known: KnownHotTier, hot: HotTier, clock: Clock, *, is_ours: bool = False) -> None:
        """`is_ours`: Redis starts and ends with processes of ours, so it is no news that it was started anew."""
        self._known, self._is_ours = known, is_ours
        self._connection, self._key = hot.connection, hot.keys.incarnation()
        self._clock = clock
        self._last: KnownRedis | None = None
        self.looked_over = -1
        """The generation that the last look is of."""
        self._noted_at = -_NOTED_EVERY_S

    @property
    def generation(self) -> int:
        """Grows whenever what was found of Redis may not hold any more: it was connected to anew."""
        return self._connection.generation

    async def look(self) -> KnownRedis:
        """What may be believed now. Raises CatalogUnavailable or HotTierUnavailable."""
        for _ in range(_MOST_TRIES):
            known = await self._known.look()
            found = await self._ask(known)
            if difference(known, found) is None:
                break
            self._connection.forget_idle()
            await self._meet()
        else:
            return replace(known, trusted=False)
        self._remember(known, found)
        asked_at = time.monotonic()
        if known.nonce is not None and asked_at - self._noted_at >= _NOTED_EVERY_S:
            await self._known.note(known.nonce, found.number)
            self._noted_at = asked_at
        return known

    async def is_same(self) -> bool:
        """Without the catalog: whether Redis is still what the last look found. Raises HotTierUnavailable."""
        if self._last is None:
            return False
        found = await self._ask(self._last)
        if difference(self._last, found) is not None:
            return False
        self._remember(self._last, found)
        return True

    async def _ask(self, known: KnownRedis) -> RedisIdentity:
        # While it is not believed nothing says that it is whole, so it is not noted as seen whole either.
        now_us = to_micros(self._clock.now()) if known.trusted else None
        for _ in range(_MOST_TRIES):
            generation = self._connection.generation
            found = await self._look_at_redis(known, now_us)
            if generation == self._connection.generation:
                break  # else a connection made meanwhile may lead to another one
        self.looked_over = generation
        return found

    async def _look_at_redis(self, known: KnownRedis, now_us: int | None) -> RedisIdentity:
        """What Redis is; if it is what is expected here it goes on by one, and notes that it was whole at `now_us`."""
        args = [known.nonce or "", known.number, known.run_id, "" if now_us is None else now_us]
        aside = f"{self._key}:set-aside"
        raw = await self._connection.ask("incarnation", [self._key, aside], args)
        if raw[4:] == [_PUT_ASIDE]:
            _log.error("value.foreign", kind="entry", item=aside, reason="it was in the place of the incarnation")
        return RedisIdentity(
            nonce=None if raw[0] is None else raw[0].decode("ascii", "replace"),
            number=int(raw[1]),
            run_id=raw[2].decode("ascii", "replace"),
            seen_us=int(raw[3]) if raw[3] is not None and raw[3].isdigit() else None,
            can_write=raw[4:] != [_READ_ONLY],
        )

    def _remember(self, known: KnownRedis, found: RedisIdentity) -> None:
        self._connection.expected = known.nonce or ""
        self._last = replace(known, number=found.number)

    async def _meet(self) -> None:
        """Redis is not what the catalog knows: unless somebody else said so by now, it is another one from here on."""
        async with self._known.changing() as (conn, known):
            found = await self._ask(known)
            reason = difference(known, found)
            if reason is None:
                return
            now, nonce = self._clock.now(), uuid4().hex
            trusted = known.nonce is None and found.nonce is None and await knows_nothing(conn)
            number = max(known.number, found.number)
            good_us = await change(
                conn,
                nonce=nonce,
                number=number,
                run_id=found.run_id,
                reason=reason,
                good_us=found.seen_us,
                trusted=trusted,
                now=now,
            )
            # A crash before the commit leaves a Redis that nobody knows, which the next look finds.
            seen_us = to_micros(now) if trusted else good_us
            await self._connection.ask("become", [self._key], [nonce, number, "" if seen_us is None else seen_us])
        if not trusted:
            metrics.HOT_TIER_CHANGES.inc()
            if reason != _RESTARTED:
                _log.error("hot_tier.changed", reason=reason, hint=_HINT)
            elif not self._is_ours:
                _log.warning("hot_tier.changed", reason=reason, hint=_HINT)
            else:
                _log.info("hot_tier.changed", reason=reason, hint=_HINT)


def difference(known: KnownRedis, found: RedisIdentity) -> str | None:
    """Why Redis is not what the catalog knows; None: it is. Pure."""
    if known.nonce is None:
        return "first met"
    if found.nonce is None:
        return "it is empty, or another one: it carries no mark of this catalog"
    if found.nonce != known.nonce:
        return "it went back to an older state, or is another one: its mark is not the last"
    looks = found.number - 1 if found.can_write else found.number
    if looks < known.number:
        return f"it went back to an older state: {looks} looks, where {known.number} were counted"
    if known.run_id and found.run_id and known.run_id != found.run_id:
        return _RESTARTED
    return None
