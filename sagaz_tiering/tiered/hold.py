"""Legal holds: placing and ending them, and what one covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from sagaz_tiering.catalog.holds import Coverage, Hold
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.config.patterns import Match, attributes_matcher, matcher, outcome_of
from sagaz_tiering.errors import CatalogUnavailable, CorruptRecord, HotTierUnavailable
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta, Tier
from sagaz_tiering.tiered.read import Reader

_log = Logger(__name__)
MOST_MATCHED = 100_000
"""So many snapshots of a tier are counted for a match; what it holds has no limit."""
MOST_HOT_SAGAS = 20_000
"""So many sagas are looked at in Redis for what only Redis has."""


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
        return Coverage(
            hot=hot,
            durable=known.durable,
            archived=known.archived,
            sagas=len(sagas | hot_sagas),
            exact=known.exact and whole,
        )

    async def _only_hot(self, match: Match) -> tuple[int, set[UUID], bool]:
        """Snapshots that match and that Redis alone has, their sagas, and whether all of Redis was looked at."""
        matches = [matcher(patterns) for patterns in (match.saga_name, match.step_name, match.status)]
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
                ids = [meta.snapshot_id for meta in metas if _matches(meta, matches)]
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


def _matches(meta: SnapshotMeta, matches: Sequence[Callable[[str], bool]]) -> bool:
    names = (meta.saga_name, meta.step_name, meta.status)
    return all(match(name) for match, name in zip(matches, names, strict=True))
