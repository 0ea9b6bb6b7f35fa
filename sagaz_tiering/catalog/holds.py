"""Legal holds: what must not expire, be erased or be lost in a rewrite, by saga or by match, with who and why.

While a snapshot is held its retention is suspended: it stays readable past its expiry. Every deletion asks inside
a transaction that placing a hold waits for (`hold_still`), so that a hold, once acknowledged, lost nothing to a
deletion that was under way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

import orjson

from sagaz_tiering.catalog.journal import note
from sagaz_tiering.catalog.patterns import expressions
from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.config.patterns import ANY, Match
from sagaz_tiering.drivers.postgresql.pool import Connection
from sagaz_tiering.drivers.postgresql.queries import checked_text, from_column, load, to_column
from sagaz_tiering.errors import ConfigError, InvalidSnapshot, LegalHold, StatementRefused
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef, as_utc
from sagaz_tiering.terminal import counted, document

_SQL = load(__package__, "holds")
HOLD_LOCK = 0x5A6A7A03
"""Transaction-scoped: placing a hold takes it alone, deletions share it."""

_IDS = 10_000
MAX_IN_HOLD = 10_000
"""Characters of all patterns together."""
_EXPRESSIONS = 4
"""Where they begin in `subject_columns`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCopy:
    """A copy in PostgreSQL; `saved_at` None: in a pack."""

    snapshot_id: UUID
    saga_id: UUID
    saga_name: str
    step_name: str
    status: str
    saved_at: datetime | None


Named = SnapshotMeta | SnapshotRef | NearCopy
"""What a hold looks at."""


class Marks(Protocol):
    """What a hold needs of Redis (`hot.tier.HotTier`)."""

    async def mark_held(self, saga_ids: Sequence[UUID], *, held: bool) -> None: ...
    async def mark_held_ids(self, snapshot_ids: Sequence[UUID], *, held: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold in force: on one saga, or on all that `match` matches, now and later."""

    hold_id: UUID
    saga_id: UUID | None
    match: dict[str, Any] | None
    reason: str
    placed_by: str
    placed_at: datetime
    not_marked: str = ""

    @property
    def subject(self) -> str:
        """`saga ID`, or the patterns."""
        if self.saga_id is not None:
            return f"saga {self.saga_id}"
        given = {name: patterns for name, patterns in (self.match or {}).items() if name != "attributes"}
        shown = {name: patterns for name, patterns in given.items() if tuple(patterns) != ANY}
        shown |= {f"attributes.{name}": each for name, each in (self.match or {}).get("attributes", {}).items()}
        return "; ".join(f"{name}={','.join(patterns)}" for name, patterns in shown.items()) or "everything"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, without=("not_marked",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a hold or an erasure covers: snapshots by the tier that each is read from, and how many sagas they are of.

    `exact` False: there may be more, since not all was looked at.
    """

    hot: int = 0
    durable: int = 0
    archived: int = 0
    sagas: int = 0
    exact: bool = True

    @property
    def snapshots(self) -> int:
        """In all tiers, each once."""
        return self.hot + self.durable + self.archived

    @property
    def is_nothing(self) -> bool:
        """Whether there is surely nothing."""
        return self.exact and not self.snapshots

    def __str__(self) -> str:
        by_tier = ", ".join(f"{name} {getattr(self, name)}" for name in ("hot", "durable", "archived"))
        least = "" if self.exact else "at least "
        return f"{least}{counted(self.snapshots, 'snapshot')} of {counted(self.sagas, 'saga')} ({by_tier})"


class Holds(Repository):
    """The tables `holds` and `hold_log`."""

    async def place(
        self, on: UUID | Match, *, reason: str, who: str, now: datetime, hold_id: UUID | None = None
    ) -> Hold:
        """Hold a saga, or everything that matches. Raises ConfigError without a reason, or for one that is no text."""
        if not reason.strip():
            raise ConfigError("a legal hold needs a reason", hint="say which case or order asks for it")
        reason, who = checked_text(reason, "the reason"), checked_text(who, "the name of who places it")
        if isinstance(on, Match):
            await self._check_patterns(on)
        saga_id, text = (on, None) if isinstance(on, UUID) else (None, match_text(on))
        match = None if text is None else orjson.loads(text)
        hold = Hold(
            hold_id=hold_id or uuid4(), saga_id=saga_id, match=match, reason=reason, placed_by=who, placed_at=now
        )
        async with self._db.transaction() as conn:
            await conn.execute(_SQL["lock"], HOLD_LOCK)
            who, reason = to_column(who), to_column(reason)
            await conn.execute(_SQL["place"], hold.hold_id, *subject_columns(on), reason, who, now)
            await conn.execute(_SQL["append"], hold.hold_id, "hold", now, who, reason, saga_id, text)
            await note(conn, "hold", hold.to_dict(), now)
        return hold

    async def _check_patterns(self, match: Match) -> None:
        """A hold that PostgreSQL cannot look for, or not quickly, would do that to every question about holds."""
        hint = "place several holds, each with fewer or shorter patterns"
        if (length := sum(map(len, match.patterns))) > MAX_IN_HOLD:
            raise ConfigError(f"no hold can have patterns of {length:,} characters", hint=hint)
        try:
            await self._db.fetch(_SQL["compiled"], [each for each in subject_columns(match)[_EXPRESSIONS:] if each])
        except StatementRefused as exc:
            raise ConfigError(f"no hold can have such patterns: {exc}", hint=hint) from exc

    async def matched(self, match: Match, most: int) -> tuple[Coverage, set[UUID]]:
        """What PostgreSQL knows that matches, at most so many rows of each tier, and the sagas of it."""
        rows = await self._db.fetch(_SQL["matched"], *expressions(match), most)
        tiers = ("durable", "archived")
        counts = {tier: sum(row["snapshots"] for row in rows if row["tier"] == tier) for tier in tiers}
        sagas = {row["saga_id"] for row in rows}
        return Coverage(**counts, sagas=len(sagas), exact=max(counts.values()) < most), sagas

    async def held_sagas(self, after: UUID | None, limit: int, *, unmarked: bool = False) -> list[UUID]:
        """The next sagas behind `after` that a hold is placed on by their id, ascending; or the not yet marked."""
        return [row["saga_id"] for row in await self._db.fetch(_SQL["held_sagas"], after, limit, unmarked)]

    async def mark(self, saga_ids: Sequence[UUID], marks: Marks) -> None:
        """Have Redis refuse to replace what is held of these sagas, whatever saga it is saved under.

        Sagas first: what leaves Redis from then on is marked there, what left it before is known here by now.
        """
        await marks.mark_held(saga_ids, held=True)
        async for ids in self.ids_of(saga_ids):
            await marks.mark_held_ids(ids, held=True)
        await self._db.execute(_SQL["marked"], list(saga_ids))

    async def ids_of(self, saga_ids: Sequence[UUID]) -> AsyncIterator[list[UUID]]:
        """The snapshots of these sagas that PostgreSQL has, durable or in packs, a page at a time."""
        after = None
        while page := [row["snapshot_id"] for row in await self._db.fetch(_SQL["ids_of"], saga_ids, after, _IDS)]:
            yield page
            after = page[-1]

    async def frozen(self, snapshot_ids: Sequence[UUID], conn: Connection | None = None) -> set[UUID]:
        """Of these, those of which PostgreSQL has something that is held: nothing replaces or removes it."""
        return await self._ids(_SQL["frozen"], list(snapshot_ids), conn=conn)

    async def frozen_in_packs(self, snapshot_ids: Sequence[UUID], conn: Connection | None = None) -> set[UUID]:
        """Of these, those that a pack has a held version of."""
        return await self._ids(_SQL["frozen_in_packs"], list(snapshot_ids), conn=conn)

    async def known(self, snapshot_ids: Sequence[UUID]) -> set[UUID]:
        """Of these, those that PostgreSQL knows."""
        return await self._ids(_SQL["known"], list(snapshot_ids))

    async def release(self, hold_ids: Sequence[UUID], *, reason: str, who: str, now: datetime) -> int:
        """End these holds; how many were in force. Raises ConfigError for a reason that is no text."""
        reason, who = checked_text(reason, "the reason"), checked_text(who, "the name of who releases it")
        released = 0
        async with self._db.transaction() as conn:
            for hold_id in hold_ids:
                row = await conn.fetchrow(_SQL["release"], hold_id)
                if row is not None:
                    released += 1
                    entry = (hold_id, "release", now, to_column(who), to_column(reason), row["saga_id"], row["match"])
                    await conn.execute(_SQL["append"], *entry)
                    await note(conn, "release", {"hold_id": hold_id, "who": who, "reason": reason}, now)
        return released

    async def in_force(self, saga_id: UUID | None = None, most: int | None = None) -> list[Hold]:
        """Every hold, or those placed on one saga by its id, oldest first, `most` of them."""
        return [_hold(row) for row in await self._db.fetch(_SQL["in_force"], saga_id, most)]

    async def page(
        self, limit: int, cursor: str | None = None, conn: Connection | None = None
    ) -> tuple[list[Hold], str | None]:
        """The next holds, oldest first, and the cursor of those behind them. Raises ConfigError for another cursor.

        Asked by `conn`, where that is given: a transaction must not ask for a second connection.
        """
        behind = (None, None) if cursor is None else _read_cursor(cursor)
        found = [_hold(row) for row in await (conn or self._db).fetch(_SQL["page"], limit + 1, *behind)]
        page = found[:limit]
        return page, f"{page[-1].placed_at.isoformat()}/{page[-1].hold_id}" if len(found) > limit else None

    async def named(self, wanted: UUID) -> list[Hold]:
        """The hold in force with that id, or those on the saga with that id, oldest first."""
        return [_hold(row) for row in await self._db.fetch(_SQL["named"], wanted)]

    async def entries(self, limit: int, behind: int | None = None) -> list[dict[str, Any]]:
        """The log, newest first, `behind` that entry.

        Keys: `entry_id`, `hold_id`, `action`, `at`, `who`, `reason`, `saga_id`, `match`.
        """
        return [_entry(row) for row in await self._db.fetch(_SQL["entries"], limit, behind)]

    async def entries_after(self, number: int, limit: int, sagas: Sequence[UUID] | None = None) -> list[dict[str, Any]]:
        """The log from its beginning: the next entries behind that one (0: the first ones), with the same keys.

        `sagas`: only what is of these, or by a match, which may mean any.
        """
        if sagas is None:
            rows = await self._db.fetch(_SQL["entries_after"], number, limit)
        else:
            rows = await self._db.fetch(_SQL["entries_of"], number, limit, list(sagas))
        return [_entry(row) for row in rows]

    async def holding(self, snapshot: Named, end: SagaEnd | None = None) -> list[Hold]:
        """The holds that cover a snapshot, whose saga ends there (None: as PostgreSQL knows)."""
        names, ended = _names(snapshot), _ended(end)
        return [_hold(row) for row in await self._db.fetch(_SQL["holding"], snapshot.saga_id, *names, *ended)]

    async def covering(
        self, snapshots: Sequence[Named], conn: Connection | None = None, *, ends: Mapping[UUID, SagaEnd] | None = None
    ) -> set[UUID]:
        """Of these snapshots, the held ones; `conn` of `hold_still` where something is deleted by the answer.

        `ends`: where their sagas end, of those of which Redis may know newer ends than PostgreSQL.
        """
        if not snapshots:
            return set()
        columns = zip(*(_names(snapshot) for snapshot in snapshots), strict=True)
        ended = zip(*(_ended((ends or {}).get(s.saga_id)) for s in snapshots), strict=True)
        ids = [s.snapshot_id for s in snapshots], [s.saga_id for s in snapshots]
        return await self._ids(_SQL["covering"], *(*ids, *map(list, columns), *map(list, ended)), conn=conn)

    async def refuse(self, snapshots: Sequence[Named], conn: Connection) -> None:
        """Raise LegalHold if one of these is held; `conn` of the transaction that deletes them, which then keeps it so.

        What has no saga name is damaged: it may be anything that a match means.
        """
        await hold_still(conn)
        held = await self.covering(snapshots, conn)
        for snapshot in snapshots:
            if snapshot.snapshot_id in held:
                for row in await conn.fetch(_SQL["holding"], snapshot.saga_id, *_names(snapshot), *_ended(None)):
                    why = f"({_hold(row).subject}): {from_column(row['reason'])}"
                    raise LegalHold(f"snapshot {snapshot.snapshot_id} is under a legal hold {why}")
        if frozen := await self.frozen([snapshot.snapshot_id for snapshot in snapshots], conn):
            raise LegalHold(f"snapshot {min(frozen)} is under a legal hold in an older version than its newest")
        if any(not snapshot.saga_name for snapshot in snapshots) and await conn.fetchval(_SQL["any_match"]):
            raise LegalHold("a damaged snapshot may be one that a legal hold means", hint="release the hold first")


async def hold_still(conn: Connection, *, expiring: bool = False) -> None:
    """For the rest of this transaction no hold is placed. `expiring`: what it deletes stays known as its saga's end."""
    await conn.execute(_SQL["lock_to_expire" if expiring else "lock_shared"], HOLD_LOCK)


def match_text(match: Match) -> str:
    """As JSON; without an outcome as before there was one."""
    left_out = {"outcome"} if match.outcome == ANY else set()
    return orjson.dumps(match.model_dump(mode="json", exclude=left_out)).decode()


def subject_columns(on: UUID | Match) -> tuple[Any, ...]:
    """Saga, match but for what looks at the end, outcome, attributes, and the regular expressions of all."""
    if isinstance(on, UUID):
        return (on, *[None] * 8)
    outcome = None if on.outcome == ANY else orjson.dumps(on.outcome).decode()
    attributes = orjson.dumps(on.attributes).decode() if on.attributes else None
    match = orjson.dumps(on.model_dump(mode="json", exclude={"outcome", "attributes"})).decode()
    return (None, match, outcome, attributes, *expressions(on))


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    placed_at, _, hold_id = cursor.partition("/")
    try:
        return as_utc(datetime.fromisoformat(placed_at), "a cursor"), UUID(hold_id)
    except (ValueError, InvalidSnapshot) as exc:
        hint = "take the one that a page ends with, as it is"
        raise ConfigError(f"{cursor!r:.80} is no cursor of this list", hint=hint) from exc


def _entry(row: Any) -> dict[str, Any]:
    return {
        **dict(row),
        "who": from_column(row["who"]),
        "reason": from_column(row["reason"]),
        "match": None if row["match"] is None else orjson.loads(row["match"]),
    }


def _names(snapshot: Named) -> tuple[str, str, str]:
    return to_column(snapshot.saga_name), to_column(snapshot.step_name), to_column(snapshot.status)


def _ended(end: SagaEnd | None) -> tuple[str | None, str | None]:
    return (None, None) if end is None else (to_column(end.status), to_column(end.attributes))


def _hold(row: Any) -> Hold:
    match = None if row["match"] is None else orjson.loads(row["match"])
    return of_row(Hold, row, "reason", "placed_by", match=match)
