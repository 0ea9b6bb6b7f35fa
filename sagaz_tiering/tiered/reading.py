"""The read path: Redis, then PostgreSQL's durable copies and the places in packs, then the packs.

Redis is always asked before PostgreSQL: a snapshot on its way into a pack is published there before it leaves
Redis, so in this order one of the two has it. Redis alone answers only what `Watch` says it has completely.
When Redis is down, PostgreSQL answers alone only for sagas whose policies acknowledge nothing in Redis alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.holds import Holds
from sagaz_tiering.catalog.locations import Located, Locations
from sagaz_tiering.clock import Clock, from_micros, to_micros
from sagaz_tiering.codec import Header, Record, from_value, read_header, read_meta
from sagaz_tiering.dictionaries.shelf import Dictionaries
from sagaz_tiering.errors import CorruptData, CorruptRecord, HotTierUnavailable, SnapshotLost
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta, Tier
from sagaz_tiering.storage.encoding import decode_record, decode_value
from sagaz_tiering.storage.hot import HotTier
from sagaz_tiering.storage.hot_values import Gone
from sagaz_tiering.storage.reporting import skipped_unreadable
from sagaz_tiering.tiered.cold import ColdTier
from sagaz_tiering.tiered.merge import Copy, alive, damaged_copy, hot_copy, located_copy, matches, merge
from sagaz_tiering.tiered.watch import Watch
from sagaz_tiering.typed_json.collector import full_collections_later

NO_LIMIT = 2**31 - 1
_DECODED_AT_ONCE = 50
_READS_HOT = metrics.READS.labels(tier=Tier.HOT.value)


class Reader:
    """Answers every query of the facade, exactly or with an error."""

    def __init__(
        self,
        *,
        hot: HotTier,
        locations: Locations,
        holds: Holds,
        cold: ColdTier,
        dictionaries: Dictionaries,
        watch: Watch,
        policies: PolicySet,
        clock: Clock,
    ) -> None:
        self.policies = policies
        self._hot = hot
        self._locations = locations
        self._holds = holds
        self._cold = cold
        self._dictionaries = dictionaries
        self._watch = watch
        self._clock = clock

    async def get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        """One snapshot by id."""
        found, hot_error = await self._ask_hot(snapshot_id)
        if isinstance(found, bytes) and await self._watch.horizon_us(0) is not None:
            header = read_header(found)
            if self._is_alive(header.meta):
                return await self._of_redis(found, header)
            copies = [hot_copy(header.meta, self.policies, found)]
        else:
            copies = await self._all_copies(snapshot_id, found, hot_error)
        loaded = await self.load(await self._alive(copies[:1]))
        return loaded[0] if loaded else None

    async def copies(self, snapshot_id: UUID) -> list[Copy]:
        """Every copy of one snapshot, the one to read first, expired ones included."""
        return await self._all_copies(snapshot_id, *await self._ask_hot(snapshot_id))

    async def _ask_hot(self, snapshot_id: UUID) -> tuple[bytes | Gone | None, HotTierUnavailable | None]:
        try:
            return await self._hot.get(snapshot_id), None
        except HotTierUnavailable as exc:
            return None, exc

    async def _all_copies(
        self, snapshot_id: UUID, found: bytes | Gone | None, hot_error: HotTierUnavailable | None
    ) -> list[Copy]:
        hot = [hot_copy(read_meta(found), self.policies, found)] if isinstance(found, bytes) else []
        located = [located_copy(item) for item in await self._locations.find(snapshot_id)]
        if hot_error is not None:
            await self._check_answerable(located, hot_error)
        if isinstance(found, Gone) and not located:
            await self._check_deleted(snapshot_id)
        best = merge(hot, located)
        return best + [copy for copy in (*hot, *located) if copy not in best]

    async def newest(
        self, saga_id: UUID, *, not_after: datetime | None = None, step_name: str | None = None
    ) -> SagaSnapshot | None:
        """The newest live snapshot of a saga, at or before a time, of a step."""
        not_after_us = None if not_after is None else to_micros(not_after)
        try:
            found = await self._hot.newest(saga_id, not_after_us=not_after_us, step_name=step_name)
        except HotTierUnavailable:
            found = None
        if isinstance(found, bytes):
            header = read_header(found)
            horizon = await self._watch.horizon_us(to_micros(self._clock.now()))
            if horizon is not None and header.meta.created_us > horizon and self._is_alive(header.meta):
                return await self._of_redis(found, header)
        while True:
            timeline = await self.timeline(saga_id, not_after=not_after, step_name=step_name, limit=1, damaged_too=True)
            if not timeline:
                return None
            if timeline[0].error is not None:
                raise timeline[0].error
            if loaded := await self.load(timeline):
                return loaded[0]

    async def list_newest(self, saga_id: UUID, limit: int) -> list[SagaSnapshot]:
        """The newest `limit` live snapshots of a saga, newest first."""
        if limit == 0:
            return []
        try:
            found = await self._hot.values(saga_id, min(limit, NO_LIMIT))
        except HotTierUnavailable:
            found = []
        values = [value for value in found if isinstance(value, bytes)]
        if len(values) == limit:
            with suppress(CorruptData):  # then the longer way leaves the damaged one out
                headers = [read_header(value) for value in values]
                if await self._has_newest(headers):
                    return await self._all_of_redis(values, headers)
        asked = limit
        while True:
            copies = await self.timeline(saga_id, limit=asked)
            readable = await self.load_readable(copies)
            if len(readable) >= limit or len(copies) < asked:
                return readable[:limit]
            asked *= 2  # older ones take the places of those that cannot be read

    async def _has_newest(self, headers: Sequence[Header]) -> bool:
        """Whether Redis has everything that is newer than the last of these, and all of them live."""
        horizon = await self._watch.horizon_us(to_micros(self._clock.now()))
        if horizon is None or headers[-1].meta.created_us <= horizon:
            return False
        return all(self._is_alive(header.meta) for header in headers)

    async def timeline(
        self,
        saga_id: UUID,
        *,
        not_after: datetime | None = None,
        step_name: str | None = None,
        limit: int = NO_LIMIT,
        expired_too: bool = False,
        damaged_too: bool = False,
    ) -> list[Copy]:
        """Live copies of a saga's snapshots over all tiers, newest first, without bodies of hot and cold ones.

        Those whose header cannot be read are left out and reported, unless asked for.
        """
        limit = min(limit, NO_LIMIT)
        hot, gone, hot_error = await self._hot_timeline(saga_id)

        async def find(count: int) -> list[Copy]:
            found = await self._locations.find_of_saga(
                saga_id,
                now=from_micros(0) if expired_too else self._clock.now(),
                not_after=not_after,
                step_name=step_name,
                limit=min(count, NO_LIMIT),
                with_values=count < NO_LIMIT,
            )
            return [located_copy(item) for item in found]

        # A copy in Redis may be a newer save of one of these; then the next of them counts.
        located = await find(limit + len(hot))
        if hot_error is not None:
            await self._check_answerable(located, hot_error)
        elif moved := await self._moved_away(saga_id, hot, located):
            if limit != NO_LIMIT:
                located = await find(NO_LIMIT)
                moved = await self._moved_away(saga_id, hot, located)
            located = [copy for copy in located if copy.ref.snapshot_id not in moved]
        not_after_us = None if not_after is None else to_micros(not_after)
        for snapshot_id in gone - {copy.ref.snapshot_id for copy in located}:
            if not await self._locations.find(snapshot_id):
                await self._check_deleted(snapshot_id)
        merged = merge(hot, located)
        if not expired_too:
            merged = await self._alive(merged)
        if not damaged_too:
            merged = _without_damaged(merged)
        return [copy for copy in merged if matches(copy, not_after_us, step_name)][:limit]

    async def _moved_away(self, saga_id: UUID, hot: Sequence[Copy], located: Sequence[Copy]) -> set[UUID]:
        """Those that a later save put under another saga: Redis has them there, PostgreSQL still here."""
        known = {copy.ref.snapshot_id for copy in hot}
        asked = [copy.ref.snapshot_id for copy in located if copy.ref.snapshot_id not in known]
        owners = await self._hot.owners(asked) if asked else {}
        return {snapshot_id for snapshot_id, owner in owners.items() if owner != saga_id}

    async def load_readable(self, copies: Sequence[Copy]) -> list[SagaSnapshot]:
        """`load` without what is damaged, which is reported."""
        try:
            return await self.load(copies)
        except CorruptData:
            found = []
            for copy in copies:
                try:
                    found += await self.load([copy])
                except CorruptData as exc:
                    skipped_unreadable(copy.ref.snapshot_id, "tiered", exc)
            return found

    async def load(self, copies: Sequence[Copy]) -> list[SagaSnapshot]:
        """The snapshots of these copies, in their order.

        A hot one that left Redis meanwhile is read where it is; one that was deleted meanwhile is left out.
        """
        records: dict[UUID, Record] = {}
        packed: list[Located] = []
        in_redis: dict[UUID, list[UUID]] = {}
        for copy in copies:
            if copy.value is not None:
                records[copy.ref.snapshot_id] = await self._record(copy.value)
            elif copy.located is not None and copy.located.place is not None:
                packed.append(copy.located)
            else:
                in_redis.setdefault(copy.ref.saga_id, []).append(copy.ref.snapshot_id)
        for saga_id, ids in in_redis.items():
            for snapshot_id, value in zip(ids, await self._values(saga_id, ids), strict=True):
                if value is None:
                    value = await self._moved_value(snapshot_id, packed)
                if value is not None:
                    records[snapshot_id] = await self._record(value)
        records.update(await self._cold.read(packed))
        loaded = [copy for copy in copies if copy.ref.snapshot_id in records]
        for copy in loaded:
            metrics.READS.labels(tier=copy.ref.tier.value).inc()
        return [await decode_record(records[copy.ref.snapshot_id]) for copy in loaded]

    def _is_alive(self, meta: SnapshotMeta) -> bool:
        expires_us = self.policies.expires_us(meta)
        return expires_us is None or to_micros(self._clock.now()) < expires_us

    async def _of_redis(self, value: bytes, header: Header) -> SagaSnapshot:
        _READS_HOT.inc()
        known = self._dictionaries.at_hand(header.dictionary_id)
        if known is None:
            known = await self._dictionaries.need(header.dictionary_id)
        return await decode_value(value, header, known)

    async def _all_of_redis(self, values: Sequence[bytes], headers: Sequence[Header]) -> list[SagaSnapshot]:
        """Decoded a few at a time, so that a long list does not hold up the event loop."""
        snapshots = []
        known = await self._dictionaries.need(*{header.dictionary_id for header in headers})
        with full_collections_later():
            for position, (value, header) in enumerate(zip(values, headers, strict=True), start=1):
                snapshots.append(await decode_value(value, header, known))
                if position % _DECODED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        _READS_HOT.inc(len(snapshots))
        return snapshots

    async def _record(self, value: bytes) -> Record:
        header = read_header(value)
        known = self._dictionaries.at_hand(header.dictionary_id)
        if known is None:
            known = await self._dictionaries.need(header.dictionary_id)
        return from_value(value, header, known)

    async def _alive(self, copies: Sequence[Copy]) -> list[Copy]:
        """Those that have not expired, or that a legal hold keeps."""
        live = alive(copies, self._clock.now())
        if len(live) == len(copies):
            return live
        known = {copy.ref.snapshot_id for copy in live}
        held = await self._holds.covering([copy.ref for copy in copies if copy.ref.snapshot_id not in known])
        return [copy for copy in copies if copy.ref.snapshot_id in known | held]

    async def _moved_value(self, snapshot_id: UUID, packed: list[Located]) -> bytes | None:
        """The durable value of a snapshot that just left Redis, or None with its place added to `packed`, if it is."""
        found = merge([], [located_copy(item) for item in await self._locations.find(snapshot_id)])
        if not found or found[0].located is None:
            await self._check_deleted(snapshot_id)
            return None
        if found[0].value is None:
            packed.append(found[0].located)
        return found[0].value

    async def _check_deleted(self, snapshot_id: UUID) -> None:
        """Raise SnapshotLost for what Redis names still, though no tier has it; without Redis there is no telling."""
        if isinstance(await self._hot.get(snapshot_id), Gone) and not await self._locations.find(snapshot_id):
            raise SnapshotLost(f"Redis names snapshot {snapshot_id}, but neither Redis nor PostgreSQL has it")

    async def _values(self, saga_id: UUID, ids: Sequence[UUID]) -> list[bytes | None]:
        try:
            return await self._hot.fetch(saga_id, ids)
        except HotTierUnavailable:
            return [None] * len(ids)

    async def _hot_timeline(self, saga_id: UUID) -> tuple[list[Copy], set[UUID], HotTierUnavailable | None]:
        hot: dict[UUID, Copy] = {}
        gone: set[UUID] = set()
        try:
            async for headers in self._hot.headers(saga_id):
                for header in headers:
                    if header.head is None:
                        gone.add(header.snapshot_id)
                        continue
                    try:
                        hot[header.snapshot_id] = hot_copy(read_meta(header.head), self.policies)
                    except CorruptRecord as exc:
                        hot[header.snapshot_id] = damaged_copy(saga_id, header, exc)
        except HotTierUnavailable as exc:
            return [], set(), exc
        return list(hot.values()), gone - hot.keys(), None

    async def _check_answerable(self, located: Sequence[Copy], error: HotTierUnavailable) -> None:
        """Without Redis: raise unless PostgreSQL must know everything about this saga."""
        names: set[str | None] = {copy.ref.saga_name for copy in located} or {None}
        if any(map(self.policies.may_be_hot_only, names)) or await self._watch.ever_hot_only(names):
            raise error


def _without_damaged(copies: Sequence[Copy]) -> list[Copy]:
    for copy in copies:
        if copy.error is not None:
            skipped_unreadable(copy.ref.snapshot_id, "tiered", copy.error)
    return [copy for copy in copies if copy.error is None]
