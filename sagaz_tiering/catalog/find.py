"""Which sagas there are, by what people know of them: newest first, a bounded look at a time, no archived byte touched.

Sagas are told in the order of their places: when each began, then the last bits of its id. Triggers keep places,
names, last steps and attributes (tables: `migrations/0023_find.sql`; functions: where docs/architecture.md says). What
is looked up here may have expired, and its attributes may be those of snapshots that have: whoever asks compares them
with what is `present`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

from sagaz_tiering.attributes import key_of
from sagaz_tiering.catalog.patterns import expression
from sagaz_tiering.catalog.rows import Repository, micros
from sagaz_tiering.catalog.sagas import end_of
from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.patterns import ANY
from sagaz_tiering.costs.lines import PackGroup
from sagaz_tiering.drivers.postgresql.queries import from_column, joined, load, to_column
from sagaz_tiering.errors import CatalogUnavailable
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "find")
_ROUTES: Final = ("by_place", "by_names", "by_statuses", "by_holds", "by_keys")
_COUNTED: Final = ("all_by_place", "all_by_names", "all_by_statuses", "all_by_holds", "all_by_keys")
_COUNTS: Final = dict(zip(_ROUTES, _COUNTED, strict=True))
PAGES: Final = {name: joined(__package__, "find", name, "found") for name in _ROUTES}
"""The ways to a page of sagas."""

PLACE_BITS: Final = 11
"""A place is a time in microseconds and so many bits of the saga's id."""
_FARTHEST: Final = 2**52 - 1
"""Microseconds from 1970, until 1827 and 2112: what began beyond has the place of that instant, as `place_of` says."""
MOST_NAMES: Final = 200
"""So many names are each looked up by themselves; of more, all sagas are looked through."""
_MOST_PAIRS: Final = 1_000
"""So many names and statuses are each looked up together; of more, statuses sift what names lead to."""
_COMMON: Final = "completed"
"""The status that most sagas have: they are not looked up by it."""
SINGLY: Final = 200
"""So many snapshots of a saga, the newest, are each looked at; of the others those that rules see alike together."""
_NAMES_AT_ONCE: Final = 10_000
"""Names that begin as a pattern does; of more, all sagas are looked through."""
_BEGINNING: Final = 64
_NAMES_GO: Final = timedelta(hours=1)
_RARE: Final = 10_000
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

    @property
    def rare_statuses(self) -> list[str]:
        """All statuses that are meant, as columns have them; none, if there are patterns or what most sagas have."""
        if _COMMON in self.statuses or any(char in status for status in self.statuses for char in "*?["):
            return []
        return [to_column(status) for status in self.statuses]

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
class Present:
    """So many `snapshots` of a saga that are there, expired or not, and that rules see alike; mostly one.

    `meta`: as far as PostgreSQL knows it, `recorded_us` its noted expiry; of several the latest times of any. In a pack
    that has a `storage_class`, and was `dated` by a retention revision and a policy; else `in_redis`, or in PostgreSQL
    alone. `held`: a legal hold is on it. `pack`: of several in packs one, of that class and with the latest time.
    """

    snapshots: int
    meta: SnapshotMeta
    recorded_us: int | None
    is_own_date_known: bool
    in_redis: bool
    storage_class: str | None
    dated: tuple[str, str] | None
    held: bool
    pack: PackGroup | None

    def expires_us(self, policies: PolicySet, saga: SagaEnd) -> int | None:
        """When it expires, of a saga that ends there."""
        if self.is_own_date_known:
            return policies.expires_us(self.meta, saga)
        return policies.expires_at_least_us(self.meta, saga, self.recorded_us, self.dated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a look found, each with what there is of it; how many sagas it `looked` at, and the last of those (None: it
    came to the end)."""

    sagas: list[tuple[KnownSaga, list[Present]]]
    looked: int
    last: Position | None


class Route(NamedTuple):
    """How a question is looked up: which queries, and what they take beside the bounds."""

    name: str
    arguments: tuple[Any, ...] = ()

    def sifts(self, question: Question) -> bool:
        """Whether names or ends are likely to sift what it leads to."""
        by_names = self.name in ("by_place", "by_holds") and question.names != ANY
        by_statuses = self.name != "by_statuses" and question.statuses != ANY
        return by_names or by_statuses or question.steps != ANY


class Find(Repository):
    """Looks sagas up."""

    async def route(self, question: Question, *, held: bool = False) -> Route | None:
        """The shortest way to what a question means, or to what is `held` of it; None: nothing is meant.

        Raises CatalogUnavailable.
        """
        if question.tokens:
            return await self._by_keys(question.tokens)
        if held and not await self._db.fetchval(_SQL["any_by_match"]):
            return Route("by_holds")
        statuses = question.rare_statuses
        if question.names == ANY and not statuses:
            return Route("by_place")
        ids = await self._name_ids(question.names)
        if ids is None:
            return Route("by_place")
        if not ids:
            return None
        pairs = [(name_id, status) for name_id in ids for status in statuses]
        if not 0 < len(pairs) <= _MOST_PAIRS:
            return Route("by_names", (ids,))
        return Route("by_statuses", tuple(zip(*pairs, strict=True)))

    async def look(self, question: Question, route: Route, after: Position, *, most: int, enough: int) -> Looked:
        """The next sagas that a question means, as far as their names and ends tell, `enough` of them at most.

        At most `most` are looked at. Raises CatalogUnavailable while sagas of an earlier version are not all taken in.
        """
        names = None if route.name == "by_names" else expression(question.names)
        ends = (names, expression(question.statuses), expression(question.steps))
        tokens = [to_column(token) for each in question.tokens for token in each]
        bounds = (*after, question.first_place, most)
        rows = await self._db.fetch(PAGES[route.name], *bounds, *ends, enough, SINGLY, tokens, *route.arguments)
        _check_complete(rows[0]["lacking"])
        if rows[0]["looked"] is None:
            return Looked(sagas=[], looked=0, last=None)
        last = None if rows[0]["is_all"] else Position(rows[0]["last_place"], rows[0]["last_id"])
        return Looked(sagas=list(_found(rows)), looked=rows[0]["looked"], last=last)

    async def estimate(self, question: Question, route: Route) -> int:
        """How many sagas a question may mean by name, time or rarest attribute, as PostgreSQL's statistics tell."""
        arguments = route.arguments[:1] if route.name == "by_keys" else route.arguments
        plan = await self._db.fetchval(_SQL[_COUNTS[route.name]], question.top.place, question.first_place, *arguments)
        return int(json.loads(plan)[0]["Plan"]["Plan Rows"])

    async def drop_unused_names(self, now: datetime) -> None:
        """Names that no saga has had for an hour go; others that none has are noted."""
        after: int | None = 0
        while after is not None:
            after = await self._db.fetchval(_SQL["unused_names"], after, _NAMES_AT_ONCE, now, now - _NAMES_GO)

    async def _by_keys(self, tokens: Sequence[Sequence[str]]) -> Route:
        """By the attribute that the fewest sagas have."""
        keys = [[key_of(to_column(token)) for token in each] for each in tokens]
        if len(keys) > 1:
            pairs = [(number, key) for number, each in enumerate(keys) for key in each]
            counted = await self._db.fetch(_SQL["rarity"], [one[0] for one in pairs], [one[1] for one in pairs], _RARE)
            keys = [keys[row["attribute"]] for row in counted]
        others = [(number, key) for number, each in enumerate(keys[1:]) for key in each]
        return Route("by_keys", (keys[0], [one[0] for one in others], [one[1] for one in others], len(keys) - 1))

    async def _name_ids(self, patterns: tuple[str, ...]) -> list[int] | None:
        """The names that match; None: too many do, or begin so."""
        first, beyond = zip(*map(_beginning, patterns), strict=True)
        most = MOST_NAMES + 1 if patterns == ANY else _NAMES_AT_ONCE
        row = await self._db.fetchrow(_SQL["names"], first, beyond, most, expression(patterns))
        assert row is not None
        _check_complete(row["lacking"])
        found = list(row["found"] or ())
        return None if row["looked"] >= most or len(found) > MOST_NAMES else found


def _check_complete(up_to: UUID | None) -> None:
    if up_to is not None:
        raise CatalogUnavailable(
            f"sagas of an earlier version are being taken in, {up_to.int / 2**128:.0%} so far; until then not all "
            "could be found",
            hint="the jobs of the daemon do it; at once: sagaz-tiering job expire --once",
        )


def _beginning(pattern: str) -> tuple[str, str]:
    """Columns of names that match a pattern begin from the one on, and before the other."""
    column = to_column(pattern)
    fixed = re.split(r"[*?[]", column, maxsplit=1)[0]
    if fixed == column and len(column) <= _BEGINNING:
        return fixed, f"{fixed}\x01"
    begins = fixed[:_BEGINNING]
    kept = begins.rstrip("\U0010ffff")
    if not kept:
        return begins, "\U0010ffff" * (_BEGINNING + 1)
    following = ord(kept[-1]) + 1
    return begins, kept[:-1] + chr(0xE000 if following == 0xD800 else following)


def _found(rows: Sequence[Any]) -> Iterator[tuple[KnownSaga, list[Present]]]:
    """Rows that follow each other are of one saga, each with something that there is of it, if there is."""
    for saga_id, of_saga in groupby(rows, key=itemgetter("saga_id")):
        if saga_id is not None:
            own = list(of_saga)
            yield _known(own[0]), [_present(row) for row in own if row["snapshots"] is not None]


def _known(row: Any) -> KnownSaga:
    return KnownSaga(
        position=Position(row["place"], row["saga_id"]),
        saga_name=from_column(row["saga_name"] or ""),
        step_name=from_column(row["step_name"] or ""),
        end=end_of(row),
    )


def _present(row: Any) -> Present:
    meta = SnapshotMeta(
        snapshot_id=_NO_ID,
        saga_id=row["saga_id"],
        saga_name=from_column(row["of_saga"]),
        step_name=from_column(row["of_step"]),
        step_index=row["of_index"],
        status=from_column(row["of_status"]),
        created_us=to_micros(row["made_at"]),
        saved_us=to_micros(row["clock_at"]),
        retention_us=micros(row["retention_until"]),
        body_crc=0,
        attributes=from_column(row["of_attributes"] or ""),
    )
    return Present(
        snapshots=row["snapshots"],
        meta=meta,
        recorded_us=micros(row["expires_at"]),
        is_own_date_known=row["is_own_date_known"],
        in_redis=row["in_redis"],
        storage_class=row["storage_class"],
        dated=None if row["dated_by"] is None else (row["dated_by"], row["policy"]),
        held=row["held"],
        pack=None if row["bucket"] is None else _pack(row),
    )


def _pack(row: Any) -> PackGroup:
    return PackGroup(
        policy=row["policy"],
        storage_class=StorageClass(row["storage_class"]),
        bucket=row["bucket"],
        retention_revision=row["retention_revision"],
        packs=row["packs"],
        bytes=row["bytes"],
        snapshots=row["snapshots"],
        packed=row["packed"],
        min_created_at=row["min_created_at"],
        max_clock_at=row["max_clock_at"],
        class_since=row["class_since"],
        next_expiry_at=row["next_expiry_at"],
    )
