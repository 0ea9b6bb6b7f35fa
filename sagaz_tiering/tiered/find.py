"""`find`: sagas by what people know of them, whatever tier their snapshots are in; asks the catalog alone."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID

from sagaz_tiering.attributes import column as column_of
from sagaz_tiering.attributes import tokens_of, values_of
from sagaz_tiering.catalog.find import KnownSaga, Position, Present, Question, Route
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.config.patterns import ANY, MAX_PATTERN
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.errors import ConfigError, HotTierUnavailable
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import Tier, as_utc
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import document
from sagaz_tiering.tiered.explain import NextMove, next_move
from sagaz_tiering.tiered.freshness import Freshness
from sagaz_tiering.tiers import Tiers

MOST_LOOKED_AT: Final = 10_000
"""Sagas of one page: then it is short, and its cursor goes on."""
MOST_ON_A_PAGE: Final = 1_000
MOST_VALUES: Final = 100
"""Values of one attribute in one search."""
MOST_AT_ONCE: Final = 2_500
"""Of which names and ends are looked at together."""
_SIFTED_AT_ONCE: Final = 1_000
"""As many at first, where names and ends sift them."""
_FEWEST: Final = 20
_MOST_FOUND: Final = 250
"""Of which the snapshots are looked at together."""
_WIDER: Final = 4
_TIERS: Final = (*Tier, *StorageClass)
_Item = TypeVar("_Item")
_CURSOR: Final = struct.Struct(">q16sI")


class SagaFilters(TypedDict, total=False):
    """What sagas are looked for by; a saga must meet all that is given.

    Names, statuses and steps are patterns such as `payment-*`, or lists of them; status and step are those of the
    newest snapshot. `created`: when the first one was made, (from, until), either may be None. `attributes`: by name a
    value or a list of values; a saga must have one of each. `tier`: hot, durable, cold or a storage class, in which
    something of it is. `held`: whether a legal hold is on any of it.
    """

    saga_name: str | Sequence[str] | None
    status: str | Sequence[str] | None
    step: str | Sequence[str] | None
    created: tuple[datetime | None, datetime | None] | None
    attributes: Mapping[str, object] | None
    tier: str | None
    held: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaSummary:
    """A saga that was found, by all of its snapshots that have not expired.

    `last_step`, `status` and `outcome` are those of its newest snapshot, which was made at `last_at`; `first_at` is
    when its first one was. `snapshots`: how many are read from where (`hot`, `durable`, `cold GLACIER`, ...), as the
    catalog knows. `next_move`: where the first of them goes next and when, with `(due)` or what blocks it;
    `expires_at`: when the last one expires (None: never); `held`: a legal hold is on some. `attributes`: the values of
    each, of a hashed one the hashes.
    """

    saga_id: UUID
    saga_name: str
    first_at: datetime
    last_at: datetime
    last_step: str
    status: str
    outcome: str
    snapshots: dict[str, int]
    next_move: str | None
    expires_at: datetime | None
    held: bool
    attributes: dict[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_Item]):
    """Some of what was asked for. `cursor`: asked with it, `find` goes on behind them; None: these are the last.

    A page may be short, or empty, and have a cursor: then much was looked at of which little was meant. `count`: of how
    many in all, where that was asked, an estimate unless `count_is_exact`.
    """

    items: Sequence[_Item]
    cursor: str | None = None
    count: int | None = None
    count_is_exact: bool = True

    def __iter__(self) -> Iterator[_Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A checked search: what the catalog is asked, and what is looked at afterwards."""

    question: Question
    tier: str | None
    held: bool | None


class Finder:
    """Finds sagas."""

    def __init__(self, tiers: Tiers, freshness: Freshness) -> None:
        self._tiers, self._find, self._freshness = tiers, tiers.catalog.find, freshness

    def checked(self, filters: SagaFilters) -> Search:
        """The search as it is asked for. Raises ConfigError, NaiveTimestamp."""
        created, tier = filters.get("created"), filters.get("tier")
        begun_from, begun_until = (None if at is None else as_utc(at, "created") for at in created or (None, None))
        if begun_from is not None and begun_until is not None and begun_from >= begun_until:
            raise ConfigError(
                f"created: nothing is from {begun_from.isoformat()} until {begun_until.isoformat()}",
                hint="give the earlier time first; the later one is not in it any more",
            )
        if tier is not None and tier not in _TIERS:
            raise ConfigError(f"there is no tier {tier!r:.40}", hint=f"tiers: {', '.join(_TIERS)}")
        tokens = tuple(self._tokens(name, wanted) for name, wanted in sorted((filters.get("attributes") or {}).items()))
        question = Question(
            names=_patterns("saga_name", filters.get("saga_name")),
            statuses=_patterns("status", filters.get("status")),
            steps=_patterns("step", filters.get("step")),
            begun_from=begun_from,
            begun_until=begun_until,
            tokens=tokens,
        )
        return Search(question=question, tier=tier, held=filters.get("held"))

    async def page(
        self, filters: SagaFilters, *, limit: int, cursor: str | None, count: bool = False, look_at: int | None = None
    ) -> Page[SagaSummary]:
        """See `TieredStorage.find`. After `look_at` sagas (None: MOST_LOOKED_AT) a page ends, however few are meant."""
        search = self.checked(filters)
        if not 1 <= limit <= MOST_ON_A_PAGE:
            raise ConfigError(
                f"limit must be from 1 to {MOST_ON_A_PAGE:,}, not {limit!r:.40}",
                hint="take pages: the cursor of one leads to the next",
            )
        question = search.question
        after = question.top if cursor is None else _read_cursor(cursor, question)
        with suppress(HotTierUnavailable):  # then by what was last known of the rules
            await self._freshness.known()
        route = await self._find.route(question, held=search.held is True)
        if route is None:
            return Page(items=(), count=0 if count else None)
        number, is_exact = await self._count(search, route) if count else (None, True)
        items: list[SagaSummary] = []
        walk, last = _Reached(after=after, most=look_at or MOST_LOOKED_AT), after
        async for position, summary in self._walk(search, route, walk, limit + 1):
            if len(items) == limit:
                walk.after = last
                break
            items.append(summary)
            last = position
        more = None if walk.after is None else _cursor_text(walk.after, question)
        return Page(items=items, cursor=more, count=number, count_is_exact=is_exact)

    async def _count(self, search: Search, route: Route) -> tuple[int, bool]:
        """Of all that is meant: exactly, or as much of what statistics tell as of what was looked at."""
        walk, found = _Reached(after=search.question.top, most=MOST_LOOKED_AT), 0
        async for _ in self._walk(search, route, walk, MOST_LOOKED_AT):
            found += 1
        if walk.after is None:
            return found, True
        share = found / max(walk.looked, 1)
        return max(found, round(share * await self._find.estimate(search.question, route))), False

    async def _walk(
        self, search: Search, route: Route, walk: _Reached, wanted: int
    ) -> AsyncIterator[tuple[Position, SagaSummary]]:
        """Sagas that are meant, newest first; `wanted`: so many are probably enough."""
        question, enough = search.question, min(max(wanted, _FEWEST), _MOST_FOUND)
        most = _SIFTED_AT_ONCE if route.sifts(question) else min(max(wanted, _FEWEST), MOST_AT_ONCE)
        while walk.after is not None and walk.looked < walk.most:
            most = min(most, walk.most - walk.looked)
            looked = await self._find.look(question, route, walk.after, most=most, enough=enough)
            for saga, summary in self._living(search, looked.sagas):
                yield saga.position, summary
            walk.looked += looked.looked
            walk.after = looked.last
            most, enough = min(most * _WIDER, MOST_AT_ONCE), min(enough * _WIDER, _MOST_FOUND)

    def _living(
        self, search: Search, sagas: Sequence[tuple[KnownSaga, Sequence[Present]]]
    ) -> Iterator[tuple[KnownSaga, SagaSummary]]:
        """Those of these that have not expired, and that are what is meant."""
        rules, now_us = self._freshness.rules(self._tiers.in_force.policies), to_micros(self._tiers.clock.now())
        for saga, present in sagas:
            alive = [
                _Dated(one, expires_us)
                for one in present
                if (expires_us := one.expires_us(rules, saga.end)) is None or now_us < expires_us or one.held
            ]
            if alive and _is_meant(search, saga, alive):
                yield saga, _summary(saga, alive, _next_move(saga, alive, rules, self._tiers.prices, now_us))

    def _tokens(self, name: str, wanted: object) -> tuple[str, ...]:
        """The tokens of one attribute's value, or of a list of them."""
        values = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        if not 1 <= len(values) <= MOST_VALUES:
            raise ConfigError(
                f"attribute {name}: {len(values)} values",
                hint=f"give from 1 to {MOST_VALUES} values, of which one must match",
            )
        return tuple(sorted({self._tiers.in_force.attributes.token(name, value) for value in values}))


@dataclass(slots=True)
class _Reached:
    """How far a walk is: what comes `after` is to be looked at (None: there is nothing more), `most` sagas in all."""

    after: Position | None
    most: int
    looked: int = 0


class _Dated(NamedTuple):
    """What is there and counts; when it expires."""

    one: Present
    expires_us: int | None

    @property
    def place(self) -> tuple[str, ...]:
        """Tier and class that it is read from."""
        if self.one.storage_class is not None:
            return (Tier.COLD.value, self.one.storage_class)
        return (Tier.HOT.value if self.one.in_redis else Tier.DURABLE.value,)


def _began_us(saga: KnownSaga, alive: Sequence[_Dated]) -> int:
    return min(each.one.meta.created_us for each in alive) if saga.began_us is None else saga.began_us


def _is_meant(search: Search, saga: KnownSaga, alive: Sequence[_Dated]) -> bool:
    """Whether what has not expired of a saga is what is looked for."""
    if not search.question.means(_began_us(saga, alive)):
        return False
    if search.held is not None and search.held != any(each.one.held for each in alive):
        return False
    if search.tier is not None and not any(search.tier in each.place for each in alive):
        return False
    if not search.question.tokens:
        return True
    tokens = {token for each in alive for token in tokens_of(each.one.meta.attributes)}
    return all(not tokens.isdisjoint(wanted) for wanted in search.question.tokens)


def _next_move(
    saga: KnownSaga, alive: Sequence[_Dated], rules: PolicySet, prices: PriceList, now_us: int
) -> str | None:
    """What of it goes first; what is blocked, only where nothing else goes."""
    moves: list[NextMove] = []
    now = from_micros(now_us)
    for one, expires_us in alive:
        expires_at = None if expires_us is None else from_micros(expires_us)
        decision = rules.decide(one.meta, saga.end, now_us).recorded_as(expires_at, now_us)
        if (move := next_move(decision, one.pack, rules, prices, now)) is not None:
            moves.append(move)
    first = min(moves, key=lambda move: (move.blocked is not None, move.at), default=None)
    return None if first is None else first.told(now)


def _summary(saga: KnownSaga, alive: Sequence[_Dated], goes: str | None) -> SagaSummary:
    tiers = Counter[str]()
    for each in alive:
        tiers[" ".join(each.place)] += each.one.snapshots
    expiries = [each.expires_us for each in alive if each.expires_us is not None]
    return SagaSummary(
        saga_id=saga.saga_id,
        saga_name=saga.saga_name,
        first_at=from_micros(_began_us(saga, alive)),
        last_at=from_micros(saga.end.created_us),
        last_step=saga.step_name,
        status=saga.end.status,
        outcome=saga.end.outcome,
        snapshots=dict(sorted(tiers.items())),
        next_move=goes,
        expires_at=from_micros(max(expiries)) if len(expiries) == len(alive) else None,
        held=any(each.one.held for each in alive),
        attributes=values_of(column_of(token for each in alive for token in tokens_of(each.one.meta.attributes))),
    )


def _patterns(name: str, wanted: str | Sequence[str] | None) -> tuple[str, ...]:
    """One or more patterns; None: any."""
    if wanted is None:
        return ANY
    found = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if not found or not all(isinstance(each, str) and each for each in found):
        raise ConfigError(
            f"{name}: {wanted!r:.80} matches nothing",
            hint="give a name or a pattern such as payment-*, or a list of them",
        )
    if any(len(each) > MAX_PATTERN for each in found):
        raise ConfigError(
            f"{name}: a pattern has more than {MAX_PATTERN:,} characters", hint="* stands for any number of them"
        )
    return found


def _cursor_text(after: Position, question: Question) -> str:
    """Where the next page of a question begins, as text that says nothing to people."""
    packed = _CURSOR.pack(after.place, after.saga_id.bytes, _cursor_check(after, question))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _read_cursor(text: str, question: Question) -> Position:
    """The position in a text of `_cursor_text`. Raises ConfigError for another text, or one of another question."""
    try:
        place, saga_id, check = _CURSOR.unpack(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (struct.error, binascii.Error, ValueError, TypeError, AttributeError):
        raise ConfigError(
            f"{text!r:.60} is no cursor of find",
            hint="pass the cursor of the page before as it is, or none for the first page",
        ) from None
    after = Position(place, UUID(bytes=saga_id))
    if check != _cursor_check(after, question):
        raise ConfigError(
            "the cursor is damaged, or of another search",
            hint="ask with the same filters as for the page before; only the limit may differ",
        )
    return after


def _cursor_check(after: Position, question: Question) -> int:
    return zlib.crc32(repr((after.place, after.saga_id.int, question)).encode("utf-8", "backslashreplace"))
