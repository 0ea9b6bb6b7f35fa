"""The read path: Redis, then PostgreSQL's durable copies and the places in packs, then the packs.

Redis is always asked before PostgreSQL: a snapshot on its way into a pack is published there before it leaves
Redis, so in this order one of the two has it. Redis alone answers only what `Freshness` says it has completely.
When Redis is down, PostgreSQL answers alone only for sagas whose policies acknowledge nothing in Redis alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.threaded import decode_value
from sagaz_tiering.codec.value import Header, read_header, read_meta
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import CatalogUnavailable, CorruptData, HotTierUnavailable, SnapshotLost
from sagaz_tiering.hot.layout import Gone, HotValue, IndexedHeader, check_indexed, indexed_header
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta, SnapshotRef, Tier
from sagaz_tiering.storage.answers import check_answer
from sagaz_tiering.tiered.freshness import Freshness, Known
from sagaz_tiering.tiered.load import Loader, nameless, nobody_has
from sagaz_tiering.tiered.merge import (
    Copy,
    alive,
    complete_from,
    damaged_copy,
    dated,
    end_of,
    hot_copy,
    located_copy,
    matches,
    merge,
)
from sagaz_tiering.tiers import Tiers

NO_LIMIT = 2**31 - 1
_DECODED_AT_ONCE = 50
_WIDER = 4
_READS_HOT = metrics.READS.labels(tier=Tier.HOT.value)

_Asked: TypeAlias = tuple[HotValue | Gone | None, Known | None, HotTierUnavailable | None]
"""What Redis has, what was known of Redis before it was asked, and why it could not be."""


class Reader:
    """Answers every query of the facade, exactly or with an error."""

    def __init__(self, tiers: Tiers, freshness: Freshness, loader: Loader) -> None:
        self.tiers = tiers
        self._hot, self._catalog, self._clock, self._in_force = tiers.hot, tiers.catalog, tiers.clock, tiers.in_force
        self._dictionaries = tiers.dictionaries
        self._freshness, self._loader = freshness, loader
        self.load = loader.load

    @property
    def rules(self) -> PolicySet:
        """By which policies snapshots expire: the later of this process's and those that `expire` accepted last."""
        return self._freshness.rules(self._in_force.policies)

    async def get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        """One snapshot by id."""
        asked = found, known, _ = await self._ask_hot(snapshot_id)
        if isinstance(found, HotValue) and known is not None:
            since_us = self._freshness.complete_by_now(known, 0)
            if since_us is not None or await self._freshness.complete_since_us(known, 0) is not None:
                header = read_header(found.value)
                check_answer(header.meta, snapshot_id=snapshot_id)
                if self._is_alive(header.meta, found.end(header.meta), to_micros(self._clock.now())):
                    return await self._of_redis(found.value, header)
        copies = await self._all_copies(snapshot_id, asked)
        return next(iter(await self.load(await self._alive(copies[:1]))), None)

    async def copies(self, snapshot_id: UUID) -> list[Copy]:
        """Every copy of one snapshot, the one to read first, expired ones included."""
        return await self._all_copies(snapshot_id, await self._ask_hot(snapshot_id))

    async def live_copies(self, snapshot_id: UUID) -> list[Copy]:
        """The copy of one snapshot that is read, if it lives."""
        return await self._alive((await self.copies(snapshot_id))[:1])

    async def _ask_hot(self, snapshot_id: UUID) -> _Asked:
        """What Redis has, and what was known of Redis before it was asked."""
        try:
            known = self._freshness.known_by_now() or await self._freshness.known()
            return await self._hot.find(snapshot_id), known, None
        except HotTierUnavailable as exc:
            return None, None, exc

    async def _all_copies(self, snapshot_id: UUID, asked: _Asked) -> list[Copy]:
        (found, known, hot_error), hot, end = asked, list[Copy](), None
        if isinstance(found, HotValue):
            meta = read_meta(found.value)
            check_answer(meta, snapshot_id=snapshot_id)
            hot.append(hot_copy(meta, found.value))
            end = found.end(meta)
        located = [located_copy(item) for item in await self._catalog.locations.find(snapshot_id)]
        if hot_error is not None:
            await self._check_answerable(located, hot_error)
        if isinstance(found, Gone) and not located:
            await self._check_deleted(snapshot_id)
        doubted = known is not None and not self._freshness.believes(known)
        if doubted:
            hot, located = await self._loader.sift(hot, located)
        if doubted or isinstance(found, Gone):  # a pack may have an older save of it
            hot = await self._loader.lost(hot, snapshot_id=snapshot_id) or hot
        best = merge(hot, located)
        copies = best + [copy for copy in (*hot, *located) if copy not in best]
        ends = {} if end is None or not hot else {hot[0].ref.saga_id: end}
        found_now = self._dated(copies, ends)
        in_redis = [copy.meta for copy in copies if copy.meta is not None]
        now = self._clock.now()
        surely = all(self._is_alive(meta, ends.get(meta.saga_id), to_micros(now)) for meta in in_redis)
        if not surely or len(alive(found_now, now)) < len(copies):  # PostgreSQL may know that it went on
            for saga_id, known_end in (await self._catalog.sagas.ends(copy.ref.saga_id for copy in copies)).items():
                ends[saga_id] = known_end.and_of(ends.get(saga_id))
            found_now = self._dated(copies, ends)
        return found_now

    def _dated(self, copies: Sequence[Copy], ends: Mapping[UUID, SagaEnd]) -> list[Copy]:
        """Each copy with its expiry, whose saga ends there at the earliest."""
        found = []
        for copy in copies:
            of_saga = [other for other in copies if other.ref.saga_id == copy.ref.saga_id]
            found += dated([copy], self.rules, end_of(of_saga, ends.get(copy.ref.saga_id)))
        return found

    async def newest(
        self, saga_id: UUID, *, not_after: datetime | None = None, step_name: str | None = None
    ) -> SagaSnapshot | None:
        """The newest live snapshot of a saga, at or before a time, of a step."""
        not_after_us = None if not_after is None else to_micros(not_after)
        try:
            known = self._freshness.known_by_now() or await self._freshness.known()
            found = await self._hot.newest(saga_id, not_after_us=not_after_us, step_name=step_name)
        except HotTierUnavailable:
            found = None
        if found is not None and (value := found[0].value) is not None:
            header = indexed_header(found[0], value, saga_id)
            check_answer(header.meta, step_name=step_name, not_after_us=not_after_us)
            now_us = to_micros(self._clock.now())
            since_us = self._freshness.complete_by_now(known, now_us)
            if since_us is None:
                since_us = await self._freshness.complete_since_us(known, now_us)
            end = HotValue(value, found[1]).end(header.meta)
            has_newer = since_us is not None and header.meta.created_us > since_us
            if has_newer and self._is_alive(header.meta, end, now_us):
                return await self._of_redis(value, header)
        while True:
            timeline = await self.timeline(saga_id, not_after=not_after, step_name=step_name, limit=1)
            if not timeline:
                return None
            for snapshot in await self.load(timeline):
                # Saved anew since, it may be of another step or time: then the timeline is another one, too.
                if step_name in (None, snapshot.step_name) and (not_after is None or snapshot.created_at <= not_after):
                    return snapshot

    async def list_newest(self, saga_id: UUID, limit: int) -> list[SagaSnapshot]:
        """The newest `limit` live snapshots of a saga, newest first. Raises Unreadable with those that can be read."""
        if limit == 0:
            return []
        with suppress(HotTierUnavailable, CorruptData):  # the longer way tells which is damaged, and reads the others
            if alone := await self._redis_alone(saga_id, limit):
                return alone
        try:
            while True:
                copies = await self.timeline(saga_id, limit=limit)
                loaded = await self.load(copies)
                if len(loaded) == len(copies):  # else some were deleted meanwhile, and older ones take their places
                    return loaded
        except CatalogUnavailable:
            with suppress(HotTierUnavailable):
                if alone := await self._redis_alone(saga_id, limit, and_all=True):
                    return alone
            raise

    async def _redis_alone(self, saga_id: UUID, limit: int, *, and_all: bool = False) -> list[SagaSnapshot]:
        """The newest `limit`, or all, if Redis has everything that is newer, or ever was, and all of them live."""
        known = await self._freshness.known()
        found = await self._hot.values(saga_id, min(limit, NO_LIMIT))
        values = [each.value for each in found if each.value is not None]
        if not values or len(values) < (len(found) if and_all else limit):
            return []
        headers = [indexed_header(each, value, saga_id) for each, value in zip(found, values, strict=True)]
        oldest_us = None if and_all else headers[-1].meta.created_us
        now_us = to_micros(self._clock.now())
        if not await self._freshness.has_newer(known, oldest_us, now_us):
            return []
        end = SagaEnd.of(headers[0].meta)
        all_live = all(self._is_alive(header.meta, end, now_us) for header in headers)
        return await self._all_of_redis(values, headers) if all_live else []

    async def timeline(
        self,
        saga_id: UUID,
        *,
        not_after: datetime | None = None,
        step_name: str | None = None,
        limit: int = NO_LIMIT,
        expired_too: bool = False,
    ) -> list[Copy]:
        """Live copies of a saga's snapshots over all tiers, newest first, without bodies of hot and cold ones.

        Those that are known to be lost or damaged already are among them, with their `error`.
        """
        hot, gone, known, hot_error = await self._hot_timeline(saga_id)
        doubted = known is not None and not self._freshness.believes(known)
        not_after_us = None if not_after is None else to_micros(not_after)
        # Of those in PostgreSQL some may have expired, have a newer save in Redis or belong to another saga by now:
        # then the next ones count.
        asked, first = min(limit + len(hot), NO_LIMIT), True
        while True:
            located, since, end = await self._find(saga_id, not_after, step_name, asked, with_values=first)
            if hot_error is not None:
                await self._check_answerable(located, hot_error)
            elif not doubted and (moved := await self._moved_away(saga_id, hot, located)):
                located = [copy for copy in located if copy.ref.snapshot_id not in moved]
            in_redis = hot
            if doubted:
                in_redis, located = await self._loader.sift(hot, located)
            there = {copy.ref.snapshot_id for copy in located}
            missing = [nameless(saga_id, each) for each in gone if each.snapshot_id not in there]
            # PostgreSQL or a pack may have an older save of what Redis names without having it.
            noted = await self._loader.lost(in_redis, saga_id=saga_id) if doubted or gone else []
            told = {copy.ref.snapshot_id for copy in noted}
            missing = [copy for copy in missing if copy.ref.snapshot_id not in told]
            lost = await self._lost([copy for copy in missing if matches(copy, not_after_us, step_name)], limit) + noted
            end = end_of(in_redis, end)
            found = [copy for copy in merge([*in_redis, *lost], located) if matches(copy, not_after_us, step_name)]
            found = dated(found, self.rules, end)
            if since is not None:
                found = [copy for copy in found if copy.ref.order_key >= since]
            if not expired_too:
                found = await self._alive(found)
            if len(found) >= limit or since is None:
                return found[:limit]
            asked, first = min(asked * _WIDER, NO_LIMIT), False

    async def _find(
        self, saga_id: UUID, not_after: datetime | None, step_name: str | None, asked: int, *, with_values: bool
    ) -> tuple[list[Copy], tuple[datetime, int, int] | None, SagaEnd | None]:
        """What PostgreSQL has of a saga, from where on that is all of it (None: it is all), and where it ends."""
        found, end = await self._catalog.locations.find_of_saga(
            saga_id, not_after=not_after, step_name=step_name, limit=asked, with_values=with_values and asked < NO_LIMIT
        )
        copies = [located_copy(item) for item in found]
        return copies, complete_from(copies, asked), end

    async def _lost(self, missing: Sequence[Copy], limit: int) -> list[Copy]:
        """Of those that Redis names without a value, the newest `limit` that no tier has."""
        lost: list[Copy] = []
        for copy in sorted(missing, key=lambda each: each.ref.order_key, reverse=True):
            if len(lost) == limit:
                break
            try:
                if not await self._catalog.locations.find(copy.ref.snapshot_id):
                    await self._check_deleted(copy.ref.snapshot_id)
            except SnapshotLost:
                lost.append(copy)
        return lost

    async def _moved_away(self, saga_id: UUID, hot: Sequence[Copy], located: Sequence[Copy]) -> set[UUID]:
        """Those that a later save put under another saga: Redis has them there, PostgreSQL still here."""
        known = {copy.ref.snapshot_id for copy in hot}
        asked = [copy.ref.snapshot_id for copy in located if copy.ref.snapshot_id not in known]
        owners = await self._hot.owners(asked) if asked else {}
        return {snapshot_id for snapshot_id, owner in owners.items() if owner != saga_id}

    def _is_alive(self, meta: SnapshotMeta, end: SagaEnd | None, now_us: int) -> bool:
        """Whether one in Redis surely lives, whose saga ends there or later (None: unknown): what came later may be in
        a pack or have expired, and rule it in another way. What was archived of the saga may promise more."""
        if end is None:
            return False
        rules = self._freshness.rules(self._in_force.policies)
        expires_us = rules.expires_not_before_us(meta, end)
        return expires_us is None or now_us < expires_us

    async def _of_redis(self, value: bytes, header: Header) -> SagaSnapshot:
        _READS_HOT.inc()
        if traces.tracer is not None:
            traces.note(tier=Tier.HOT.value)
        known = self._dictionaries.at_hand(header.dictionary_id)
        if known is None:
            known = await self._dictionaries.need(header.dictionary_id)
        return await decode_value(value, header, known)

    async def _all_of_redis(self, values: Sequence[bytes], headers: Sequence[Header]) -> list[SagaSnapshot]:
        """Decoded a few at a time, so that a long list does not hold up the event loop."""
        snapshots = []
        known = await self._dictionaries.need(*{header.dictionary_id for header in headers})
        for position, (value, header) in enumerate(zip(values, headers, strict=True), start=1):
            snapshots.append(await decode_value(value, header, known))
            if position % _DECODED_AT_ONCE == 0:
                await asyncio.sleep(0)
        _READS_HOT.inc(len(snapshots))
        if traces.tracer is not None:
            traces.note(tier=Tier.HOT.value)
        return snapshots

    async def _alive(self, copies: Sequence[Copy]) -> list[Copy]:
        """Those that have not expired, or that a legal hold keeps."""
        live = alive(copies, self._clock.now())
        if len(live) == len(copies):
            return live
        known = {copy.ref.snapshot_id for copy in live}
        held = await self.held([copy.ref for copy in copies if copy.ref.snapshot_id not in known])
        return [copy for copy in copies if copy.ref.snapshot_id in known | held]

    async def held(self, refs: Sequence[SnapshotRef]) -> set[UUID]:
        """Of these, those that a legal hold covers."""
        return await self._catalog.holds.covering(refs, ends=await self.ends_for_holds({ref.saga_id for ref in refs}))

    async def ends_for_holds(self, saga_ids: Collection[UUID]) -> dict[UUID, SagaEnd]:
        """The end of each, where Redis has one that is newer than PostgreSQL knows and a hold may ask."""
        if not saga_ids or not self._freshness.held_by_end:
            return {}
        with suppress(HotTierUnavailable):
            hot, known = await self._hot.ends(list(saga_ids)), await self._catalog.sagas.ends(saga_ids)
            return {saga_id: end.and_of(known.get(saga_id)) for saga_id, end in hot.items()}
        return {}

    async def _check_deleted(self, snapshot_id: UUID) -> None:
        """Raise SnapshotLost for what Redis names still, though no tier has it; without Redis there is no telling."""
        if isinstance(await self._hot.get(snapshot_id), Gone) and not await self._catalog.locations.find(snapshot_id):
            raise nobody_has(snapshot_id)

    async def _hot_timeline(
        self, saga_id: UUID
    ) -> tuple[list[Copy], list[IndexedHeader], Known | None, HotTierUnavailable | None]:
        """What Redis has of a saga, what it names without having it, what was known of it, why it cannot be asked."""
        hot: dict[UUID, Copy] = {}
        gone: dict[UUID, IndexedHeader] = {}
        try:
            known = await self._freshness.known()
            async for headers in self._hot.headers(saga_id):
                for header in filter(IndexedHeader.is_ours, headers):
                    if header.head is None:
                        gone[header.snapshot_id] = header
                        continue
                    try:
                        meta = read_meta(header.head)
                        check_indexed(meta, saga_id, header.member, header.created_us)
                        hot[header.snapshot_id] = hot_copy(meta)
                    except CorruptData as exc:
                        hot[header.snapshot_id] = damaged_copy(saga_id, header, exc)
        except HotTierUnavailable as exc:
            return [], [], None, exc
        return list(hot.values()), [each for each in gone.values() if each.snapshot_id not in hot], known, None

    async def _check_answerable(self, located: Sequence[Copy], error: HotTierUnavailable) -> None:
        """Without Redis: raise unless PostgreSQL must know everything about this saga."""
        names: set[str | None] = {copy.ref.saga_name for copy in located} or {None}
        if any(map(self._in_force.policies.may_be_hot_only, names)) or await self._freshness.ever_hot_only(names):
            raise error
