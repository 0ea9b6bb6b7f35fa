"""Legal holds: placing and ending them, what one covers, and that what is held is not replaced.

A save that may meet one is looked at before anything is stored. A hold on a saga leaves a mark in Redis that the
script `save` sees in its one trip. Holds by match are learnt from PostgreSQL within a second. While one is in force, a
save is looked at whose saga's name matches, and one that would replace what Redis has. Redis may not know the id any
more: where PostgreSQL does not take the save, which refuses by itself, it is asked whether it has a held version of the
id, once for all that are saved at that time. What slips through, in that second or since PostgreSQL is away, is kept
beside the original by the job `age`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from uuid import UUID

from sagaz_tiering.catalog.holds import Coverage, Hold
from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.config.patterns import Match, attributes_matcher, matcher, outcome_of
from sagaz_tiering.errors import (
    CatalogUnavailable,
    CorruptData,
    CorruptRecord,
    HotTierUnavailable,
    LegalHold,
    RewriteRefused,
    SnapshotArchived,
    SnapshotLost,
)
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import Durability, Policy
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta, Tier
from sagaz_tiering.tiered.freshness import Freshness
from sagaz_tiering.tiered.merge import Copy
from sagaz_tiering.tiered.read import Reader

_log = Logger(__name__)
_ANSWER_SECONDS = 2.0
"""So long it waits for PostgreSQL to say whether it has a held version of the id, and leaves it alone after that."""
MOST_MATCHED = 100_000
"""So many snapshots of a tier are counted for a match; what it holds has no limit."""
MOST_HOT_SAGAS = 20_000
"""So many sagas are looked at in Redis for what only Redis has."""


class Freezer:
    """Looks before a save that may replace something."""

    def __init__(self, reader: Reader, freshness: Freshness) -> None:
        self._tiers, self._catalog = reader.tiers, reader.tiers.catalog
        self._reader, self._freshness = reader, freshness
        self._held: tuple[str, ...] = ()
        self._names: list[Callable[[str], bool]] = []
        self._asked: set[UUID] = set()
        self._question: asyncio.Task[set[UUID]] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._silent_until = 0.0

    @property
    def any_match(self) -> bool:
        """Whether a hold by match was in force when a save was last asked about."""
        return bool(self._held)

    def may_ask(self, policy: Policy) -> bool:
        """Whether `asks` must be asked about saves by this policy; for most that is all."""
        return bool(self._freshness.held or self._held) or policy.rewrite == "refuse"

    async def asks(self, meta: SnapshotMeta, policy: Policy) -> bool:
        """Whether a save must be looked at first, by the holds that the last look told of."""
        held = self._freshness.held
        if held != self._held:
            self._held, self._names = held, [matcher(Match.model_validate_json(one).saga_name) for one in held]
        if policy.rewrite == "refuse":
            return True
        if not held:
            return False
        if any(matches(meta.saga_name) for matches in self._names):
            return True
        return policy.durability is Durability.HOT and await self._is_frozen(meta.snapshot_id)

    async def _is_frozen(self, snapshot_id: UUID) -> bool:
        """Whether PostgreSQL has a held version of it, under whatever name; False where it does not say so soon."""
        if time.monotonic() < self._silent_until:
            return False
        self._asked.add(snapshot_id)
        if self._question is None:
            self._question = asyncio.create_task(self._ask())
            self._question.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        question = self._question
        await asyncio.wait((question,), timeout=_ANSWER_SECONDS)
        with suppress(CatalogUnavailable, asyncio.InvalidStateError):  # the latter: it has no answer yet
            return snapshot_id in question.result()
        self._silent_until = time.monotonic() + _ANSWER_SECONDS
        return False

    async def _ask(self) -> set[UUID]:
        """Those of all that came while the question before was under way."""
        async with self._one_at_a_time:
            ids, self._asked, self._question = self._asked, set(), None
            return await self._catalog.holds.frozen(list(ids))

    async def may_store(self, snapshot: SagaSnapshot, meta: SnapshotMeta, policy: Policy) -> bool:
        """Whether to store it; False: it is stored as it is.

        Raises LegalHold or RewriteRefused where it would replace something, TierUnavailable where nobody can tell.
        """
        try:
            copies = await self._reader.copies(meta.snapshot_id)
        except CatalogUnavailable:
            if policy.rewrite == "refuse" or policy.durability is Durability.DURABLE:
                raise
            return True  # Redis acknowledges alone; the job `age` meets the hold
        held = await self._reader.held([copy.ref for copy in copies]) if copies else set()
        refused = policy.rewrite == "refuse" and bool(copies)
        if not held and not refused:
            return True
        if await self._is_same(copies[0], snapshot, meta):
            return False
        if held:
            raise await self._legal_hold(copies)
        raise RewriteRefused(f"snapshot {meta.snapshot_id} is stored with other content, or archived")

    async def _legal_hold(self, copies: list[Copy]) -> LegalHold:
        ref = copies[0].ref
        ends = await self._reader.ends_for_holds({copy.ref.saga_id for copy in copies})
        asked = [(copy.ref, ends.get(copy.ref.saga_id)) for copy in copies]
        holds = [hold for ref, end in asked for hold in await self._catalog.holds.holding(ref, end)]
        why = f" ({holds[0].subject}): {holds[0].reason}" if holds else ""
        return LegalHold(
            f"snapshot {ref.snapshot_id} is under a legal hold{why}; it cannot be replaced",
            hint="save it under a new id; see: sagaz-tiering holds",
        )

    async def _is_same(self, copy: Copy, snapshot: SagaSnapshot, meta: SnapshotMeta) -> bool:
        with suppress(SnapshotArchived, CorruptData, SnapshotLost):  # what cannot be read cannot be compared
            for stored in await self._reader.load([copy]):
                return await encode_record(stored, saved_us=meta.saved_us) == await encode_record(
                    snapshot, saved_us=meta.saved_us
                )
        return False

    async def put_back(self, meta: SnapshotMeta) -> None:
        """A save that PostgreSQL refused leaves Redis again, and what PostgreSQL has returns there."""
        try:
            gone, _ended = await self._tiers.hot.queue.evict_claimed([meta], {})
        except HotTierUnavailable:
            return  # it is away, so it took nothing
        for located in await self._catalog.locations.find(meta.snapshot_id) if gone else ():
            if located.value is not None:
                stored = read_meta(located.value)
                _, due_us, expires_us = self._tiers.policies.dates(stored, located.saga)
                await self._tiers.hot.save(stored, located.value, due_us=due_us, expires_us=expires_us)
        _log.warning("snapshot.not_replaced", snapshot_id=str(meta.snapshot_id), put_back=bool(gone))


class Holder:
    """Holds by the id of a saga, and what is covered."""

    def __init__(self, reader: Reader) -> None:
        self._tiers, self._reader = reader.tiers, reader
        self._hot, self._holds = reader.tiers.hot, reader.tiers.catalog.holds

    async def hold(self, on: UUID | Match, *, reason: str, who: str) -> Hold:
        """Place one. Raises ConfigError without a reason, or for an attribute that nobody could look at.

        What a saga's hold forbids is marked in Redis; where that is away (`not_marked`) the next run of any job does.
        """
        self._tiers.in_force.check_match(on if isinstance(on, Match) else None)
        placed = await self._holds.place(on, reason=reason, who=who, now=self._tiers.clock.now())
        return placed if placed.saga_id is None else replace(placed, not_marked=await self._mark([placed.saga_id]))

    async def release(self, holds: Sequence[Hold], *, reason: str, who: str) -> int:
        """End these; how many were in force."""
        ids = [hold.hold_id for hold in holds]
        count = await self._holds.release(ids, reason=reason, who=who, now=self._tiers.clock.now())
        sagas = {hold.saga_id for hold in holds if hold.saga_id is not None}
        await self._unmark([saga_id for saga_id in sagas if not await self._holds.in_force(saga_id)])
        await self._mark([saga_id for saga_id in sagas if await self._holds.in_force(saga_id)])  # placed meanwhile
        return count

    async def _mark(self, saga_ids: Sequence[UUID]) -> str:
        """Why they are not marked, "" where they are."""
        with _told(saga_ids) as why:
            await self._holds.mark(saga_ids, self._hot)
        return "".join(why)

    async def _unmark(self, saga_ids: Sequence[UUID]) -> None:
        """What another hold covers stays marked."""
        with _told(saga_ids):
            await self._hot.mark_held(saga_ids, held=False)
            async for ids in self._holds.ids_of(saga_ids):
                frozen = await self._holds.frozen(ids)
                await self._hot.mark_held_ids([each for each in ids if each not in frozen], held=False)

    async def covered(self, on: UUID | Match) -> Coverage:
        """What is there of a saga, or what matches; what has expired and is not gone yet counts.

        Raises TierUnavailable.
        """
        if isinstance(on, Match):
            self._tiers.in_force.check_match(on)
            return await self._matched(on)
        copies = await self._reader.timeline(on, expired_too=True)
        tiers = [copy.ref.tier for copy in copies]
        hot, durable, cold = (tiers.count(tier) for tier in (Tier.HOT, Tier.DURABLE, Tier.COLD))
        return Coverage(hot=hot, durable=durable, archived=cold, sagas=1 if copies else 0)

    async def _matched(self, match: Match) -> Coverage:
        try:
            known, sagas = await self._holds.matched(match, MOST_MATCHED)
        except CatalogUnavailable as exc:  # too many to count in the time that a statement has
            _log.warning("hold.not_counted", error=str(exc))
            return Coverage(exact=False)
        if not any(policy.durability == "hot" for policy in self._tiers.policies.policies):
            return known
        hot, hot_sagas, whole = await self._only_hot(match)
        return replace(known, hot=hot, sagas=len(sagas | hot_sagas), exact=known.exact and whole)

    async def _only_hot(self, match: Match) -> tuple[int, set[UUID], bool]:
        """Snapshots that match and that Redis alone has, their sagas, and whether all of Redis was looked at."""
        name, step, status = (matcher(patterns) for patterns in (match.saga_name, match.step_name, match.status))
        has_outcome, has_attributes = matcher(match.outcome), attributes_matcher(match.attributes)

        def ends_so(newest: SnapshotMeta) -> bool:
            return has_outcome(outcome_of(newest.status)) and has_attributes(newest.attributes)

        seen, found, sagas = set[UUID](), 0, set[UUID]()
        async for page in self._hot.saga_ids():
            for saga_id in set(page) - seen:
                if len(seen) >= MOST_HOT_SAGAS:
                    return found, sagas, False
                seen.add(saga_id)
                metas = await self._metas(saga_id)
                if not metas or not ends_so(max(metas, key=lambda meta: meta.order_key)):
                    continue
                meant = [m for m in metas if name(m.saga_name) and step(m.step_name) and status(m.status)]
                ids = [meta.snapshot_id for meta in meant]
                if ids and (only := set(ids) - await self._holds.known(ids)):
                    found += len(only)
                    sagas.add(saga_id)
        return found, sagas, True

    async def _metas(self, saga_id: UUID) -> list[SnapshotMeta]:
        metas = []
        async for headers in self._hot.headers(saga_id):
            for header in headers:
                try:
                    metas += [] if header.head is None else [read_meta(header.head)]
                except CorruptRecord:
                    continue  # it may be anything that a match means, but nobody can say so
        return metas


@contextmanager
def _told(saga_ids: Sequence[UUID]) -> Iterator[list[str]]:
    """What could not be marked is no reason for a hold or a release to fail: PostgreSQL has it. Gives why."""
    why = list[str]()
    try:
        yield why
    except (CatalogUnavailable, HotTierUnavailable) as exc:
        why.append(str(exc))
        _log.warning("hold.not_marked", saga_ids=[str(saga_id) for saga_id in saga_ids], error=str(exc))
