"""Which sagas there are, by what people know of them: newest first, a bounded look at a time, no archived byte touched.

Sagas are told in the order of their places: when each began, then the last bits of its id. Triggers keep places,
names, last steps and attributes (`migrations/0023_find.sql`). What is looked up here may have expired, and its
attributes may be those of snapshots that have: whoever asks compares them with what is `present`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sagaz_tiering.attributes import key_of
from sagaz_tiering.catalog.durable import naming
from sagaz_tiering.catalog.patterns import expression
from sagaz_tiering.catalog.sagas import end_of
from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.patterns import ANY
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.text import from_column, to_column
from sagaz_tiering.errors import CatalogUnavailable
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_SQL = load(__package__, "find")

PLACE_BITS: Final = 11
"""A place is a time in microseconds and so many bits of the saga's id."""
_FARTHEST: Final = 2**52 - 1
"""Microseconds from 1970, until 1827 and 2112: what began beyond has the place of that instant, as `place_of` says."""
MOST_NAMES: Final = 200
"""So many names are each looked up by themselves; of more, all sagas are looked through."""
_NAMES_AT_ONCE: Final = 10_000
_RARE: Final = 10_000
_ALL: Final = {"by_place": "all_by_place", "by_names": "all_by_names", "by_keys": "all_by_keys"}
_FIRST: Final = -(2**63)
_LAST: Final = 2**63 - 1
_NO_ID: Final = UUID(int=0)


class Position(NamedTuple):
    """Between sagas, in the order in which they are told: all that come after it have a smaller one."""

    place: int
    saga_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Patterns of the saga's name, and of status and step of its newest snapshot; when it began (from, until).

    `tokens`: for each attribute, tokens of which a saga must have one.
    """

    names: tuple[str, ...] = ANY
    statuses: tuple[str, ...] = ANY
    steps: tuple[str, ...] = ANY
    begun_from: datetime | None = None
    begun_until: datetime | None = None
    tokens: tuple[tuple[str, ...], ...] = ()

    @property
    def top(self) -> Position:
        """Before the newest saga that it may mean."""
        until_us = _FARTHEST + 1 if self.begun_until is None else to_micros(self.begun_until)
        return Position(_LAST if until_us > _FARTHEST else max(until_us, 1 - _FARTHEST) << PLACE_BITS, _NO_ID)

    @property
    def first_place(self) -> int:
        """Of the oldest saga that it may mean."""
        from_us = -_FARTHEST if self.begun_from is None else to_micros(self.begun_from)
        return _FIRST if from_us <= -_FARTHEST else min(from_us, _FARTHEST) << PLACE_BITS

    def means(self, began_us: int) -> bool:
        """Whether a saga that began then is from the time that is meant."""
        if self.begun_from is not None and began_us < to_micros(self.begun_from):
            return False
        return self.begun_until is None or began_us < to_micros(self.begun_until)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSaga:
    """A saga as the catalog has it: where it ends, and the name and step of that end."""

    position: Position
    saga_name: str
    step_name: str
    end: SagaEnd

    @property
    def saga_id(self) -> UUID:
        return self.position.saga_id

    @property
    def began_us(self) -> int | None:
        """When its first snapshot was made, in microseconds since 1970; None: beyond what places can tell."""
        began_us = self.position.place >> PLACE_BITS
        return began_us if abs(began_us) < _FARTHEST else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a look found; how many sagas it `looked` at, and the last of those (None: it came to the end)."""

    sagas: list[KnownSaga]
    looked: int
    last: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A snapshot that is there, expired or not. `meta`: as far as PostgreSQL knows it, `recorded_us` its noted expiry.

    In a pack that has a `storage_class`, and was `dated` by a retention revision and a policy; else `in_redis`, or in
    PostgreSQL alone.
    """

    meta: SnapshotMeta
    recorded_us: int | None
    is_own_date_known: bool
    in_redis: bool
    storage_class: str | None
    dated: tuple[str, str] | None

    def expires_us(self, policies: PolicySet, saga: SagaEnd) -> int | None:
        """When it expires, of a saga that ends there."""
        if self.is_own_date_known:
            return policies.expires_us(self.meta, saga)
        return policies.expires_at_least_us(self.meta, saga, self.recorded_us, self.dated)


class Route(NamedTuple):
    """How a question is looked up: which queries, and what they take beside the bounds."""

    name: str
    arguments: tuple[Any, ...] = ()


class Find:
    """Looks sagas up."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def check_complete(self) -> None:
        """Raise CatalogUnavailable while sagas of an earlier version are not all taken in."""
        up_to = await self._db.fetchval(_SQL["fill"])
        if up_to is not None:
            raise CatalogUnavailable(
                f"sagas of an earlier version are being taken in, {up_to.int / 2**128:.0%} so far; until then not all "
                "could be found",
                hint="the jobs of the daemon do it; at once: sagaz-tiering job expire --once",
            )

    async def route(self, question: Question) -> Route | None:
        """The shortest way to what a question means; None: nothing is meant."""
        if question.tokens:
            return await self._by_keys(question.tokens)
        if question.names == ANY:
            return Route("by_place")
        ids = await self._name_ids(question.names)
        if not ids:
            return None
        return Route("by_names", (ids,)) if len(ids) <= MOST_NAMES else Route("by_place")

    async def look(self, question: Question, route: Route, after: Position, most: int) -> Looked:
        """The next sagas that a question means, as far as their names and ends tell; at most `most` are looked at."""
        names = None if route.name == "by_names" else expression(question.names)
        ends = (names, expression(question.statuses), expression(question.steps))
        rows = await self._db.fetch(_SQL[route.name], *after, question.first_place, most, *ends, *route.arguments)
        if not rows:
            return Looked(sagas=[], looked=0, last=None)
        looked = rows[0]["looked"]
        last = Position(rows[0]["last_place"], rows[0]["last_id"]) if looked == most else None
        return Looked(sagas=[_known(row) for row in rows if row["saga_id"] is not None], looked=looked, last=last)

    async def estimate(self, question: Question, route: Route) -> int:
        """How many sagas a question may mean by name, time or rarest attribute, as PostgreSQL's statistics tell."""
        arguments = route.arguments[:1]
        plan = await self._db.fetchval(_SQL[_ALL[route.name]], question.top.place, question.first_place, *arguments)
        return int(json.loads(plan)[0]["Plan"]["Plan Rows"])

    async def present(self, saga_ids: Sequence[UUID]) -> dict[UUID, list[Present]]:
        """What is there of these sagas."""
        found: dict[UUID, list[Present]] = {}
        for row in await self._db.fetch(_SQL["present"], list(saga_ids)):
            found.setdefault(row["saga_id"], []).append(_present(row))
        return found

    async def _by_keys(self, tokens: Sequence[Sequence[str]]) -> Route:
        """By the attribute that the fewest sagas have."""
        keys = [[key_of(to_column(token)) for token in each] for each in tokens]
        if len(keys) > 1:
            counts = [await self._db.fetchval(_SQL["rarity"], each, _RARE) for each in keys]
            keys = [keys[number] for number in sorted(range(len(keys)), key=counts.__getitem__)]
        others = [(number, key) for number, each in enumerate(keys[1:]) for key in each]
        return Route("by_keys", (keys[0], [one[0] for one in others], [one[1] for one in others], len(keys) - 1))

    async def _name_ids(self, patterns: tuple[str, ...]) -> list[int]:
        """The names that match; as soon as there are too many, some of them."""
        if not any(set(pattern) & set("*?[") for pattern in patterns):
            return list(await self._db.fetchval(_SQL["exact_names"], list(map(to_column, patterns))) or ())
        found, after = list[int](), 0
        while len(found) <= MOST_NAMES:
            row = await self._db.fetchrow(_SQL["names"], after, _NAMES_AT_ONCE, expression(patterns))
            if row is None or row["last"] is None:
                break
            found += row["found"] or ()
            after = row["last"]
        return found


def _known(row: Any) -> KnownSaga:
    return KnownSaga(
        position=Position(row["place"], row["saga_id"]),
        saga_name=from_column(row["saga_name"] or ""),
        step_name=from_column(row["step_name"] or ""),
        end=end_of(row),
    )


def _present(row: Any) -> Present:
    until, recorded = row["retention_until"], row["expires_at"]
    meta = SnapshotMeta(
        **naming(row),
        created_us=to_micros(row["created_at"]),
        saved_us=to_micros(row["clock_at"]),
        retention_us=None if until is None else to_micros(until),
        body_crc=0,
        attributes=from_column(row["attributes"] or ""),
    )
    return Present(
        meta=meta,
        recorded_us=None if recorded is None else to_micros(recorded),
        is_own_date_known=row["is_own_date_known"],
        in_redis=row["in_redis"],
        storage_class=row["storage_class"],
        dated=None if row["dated_by"] is None else (row["dated_by"], row["policy"]),
    )
