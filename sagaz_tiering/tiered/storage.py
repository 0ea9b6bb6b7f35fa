"""`TieredSnapshotStorage`: the storage that a saga application holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, Self, TypeVar, Unpack
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.erasures import ErasureReceipt
from sagaz_tiering.catalog.holds import Coverage, Hold
from sagaz_tiering.catalog.restores import Restore, Wanted
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import SnapshotArchived
from sagaz_tiering.policy import Durability, PolicySet
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot, SnapshotRef, as_utc, as_uuid
from sagaz_tiering.storage.answers import text_ids_find_nothing
from sagaz_tiering.storage.base import Health, checked_limit
from sagaz_tiering.storage.reporting import measured_read, reported_save
from sagaz_tiering.tiered.cold import Restorer
from sagaz_tiering.tiered.compare import SnapshotDiff, StepChanges, Which, diff, step_changes
from sagaz_tiering.tiered.explain import Explanation, SagaExplanation, explain, explain_saga
from sagaz_tiering.tiered.export import Exporter
from sagaz_tiering.tiered.find import Finder, Page, SagaFilters, SagaSummary
from sagaz_tiering.tiered.freshness import Freshness, Pause
from sagaz_tiering.tiered.health import check_health
from sagaz_tiering.tiered.hold import Freezer, Holder
from sagaz_tiering.tiered.hot_notes import HotNotes
from sagaz_tiering.tiered.load import Loader
from sagaz_tiering.tiered.read import Reader
from sagaz_tiering.tiered.remove import Remover
from sagaz_tiering.tiered.save import Saver
from sagaz_tiering.tiered.whole import ReadWhole
from sagaz_tiering.tiers import Tiers

_Answer = TypeVar("_Answer")
_SAVES = {durability: metrics.SAVES.labels(durability=durability.value) for durability in Durability}


@text_ids_find_nothing
class TieredStorage(ReadWhole):
    """Saga snapshots over Redis, PostgreSQL and packs on an object store. Plugs into `sagaz` as it is.

    `async with TieredSnapshotStorage.from_config("config/tiering.yaml") as storage: ...`

    `None` and `[]` mean "does not exist (or expired)". A read raises TierUnavailable where a tier that might
    hold the answer cannot be asked, SnapshotArchived where the bytes must be restored first, SnapshotLost or
    CorruptData where a server lost or altered something. Ids are accepted as UUID or text.
    """

    def __init__(
        self,
        tiers: Tiers,
        *,
        expire: Callable[[], Awaitable[int]] | None = None,
        publish: Callable[[], Awaitable[str]] | None = None,
        open_again: Callable[[], AbstractAsyncContextManager[Self]] | None = None,
    ) -> None:
        """`open_again` opens the same tiers on another event loop: without it, callers there get WrongEventLoop."""
        super().__init__()
        self._home.check()
        self._open_again = open_again
        self._tiers = tiers
        self._expire = expire
        self._publish = publish
        catalog = tiers.catalog
        pause = Pause(catalog.db.time)
        self._freshness = Freshness(tiers.incarnation, catalog.history, tiers.policies.first_after, pause)
        self._notes = HotNotes(catalog, tiers.hot, tiers.clock)
        loader = Loader(tiers, self._notes)
        self._reader = Reader(tiers, self._freshness, loader)
        self._saver = Saver(tiers, self._freshness, Freezer(self._reader, self._freshness), self._notes, pause)
        self._restorer = Restorer(tiers)
        self._holder = Holder(self._reader)
        self._exporter = Exporter(self._reader, loader)
        self._finder = Finder(tiers, self._freshness)
        self._remover = Remover(self._reader)

    async def close(self) -> None:
        """Close what was opened for other event loops; the parts belong to whoever opened them (`from_config`)."""
        await self._close_twin()

    async def note_hot_saves(self) -> None:
        """Tell the catalog what Redis alone acknowledged, whichever process saved it and cannot tell it any more.

        Applications tell of their own saves within a second; the daemon calls this each second. Raises TierUnavailable.
        """
        await self._notes.tell_others(self._tiers.policies)

    async def retire(self) -> None:
        """The parts are about to be closed by whoever opened them: it is of no more use on any loop."""
        self._open_again = None
        await self.close()
        await self._home.close(self._disconnect)

    def _another(self) -> Callable[[], AbstractAsyncContextManager[Any]]:
        if self._open_again is None:
            raise self._home.wrong(hint="open it by TieredSnapshotStorage.from_config, which serves every loop")
        return self._open_again

    def _most_bytes(self) -> int:
        return self._tiers.settings.limits.max_snapshot

    async def _disconnect(self) -> None:
        await self._notes.close()

    @property
    def reader(self) -> Reader:
        """Reads without a measure, and without a restore where one meets archived bytes."""
        return self._reader

    @property
    def finder(self) -> Finder:
        """Finds sagas without a measure, and as far as it is told."""
        return self._finder

    @property
    def restorer(self) -> Restorer:
        """Asks for what is archived, by match and time span too."""
        return self._restorer

    @property
    def holder(self) -> Holder:
        """Places and ends holds, by match too."""
        return self._holder

    def adopt(self, policies: PolicySet) -> None:
        """Work by these policies from now on."""
        self._tiers.in_force.policies = policies
        self._saver.follow()
        self._freshness.follow(policies.first_after)
        if self._twin is not None:
            self._twin.tell(lambda other: other.adopt(policies))

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store a snapshot (ours or any object with sagaz's attributes); an id saved before is replaced.

        Returns when it is acknowledged by its policy's `durability`. Raises InvalidSnapshot where it would not
        come back equal, TierUnavailable where it is not safe, LegalHold or RewriteRefused where it must not replace
        what is there (the same once more is nothing); all are logged, since the engine swallows them.
        """
        with reported_save(snapshot, "tiered"):
            ours = SagaSnapshot.of(snapshot)
            durability = await self._saver.put(ours, *await self._saver.encoded(ours))
            _SAVES[durability].inc()

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot by id."""
        return await self._read(self._reader.get(as_uuid(snapshot_id, "snapshot_id")))

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest snapshot of a saga; with `before_step`, the newest whose `step_name` equals it."""
        return await self._read(self._reader.newest(as_uuid(saga_id, "saga_id"), step_name=before_step))

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live snapshot created at or before `timestamp` (aware; raises NaiveTimestamp)."""
        moment = as_utc(timestamp, "timestamp")
        return await self._read(self._reader.newest(as_uuid(saga_id, "saga_id"), not_after=moment))

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit` snapshots of a saga, newest first. Raises ValueError for a negative limit.

        Raises Unreadable if any of them cannot be read; its `readable` has the others.
        """
        return await self._read(self._reader.list_newest(as_uuid(saga_id, "saga_id"), checked_limit(limit)))

    async def timeline(self, saga_id: UUID | str) -> list[SnapshotRef]:
        """Every live snapshot of a saga, oldest first, with its tier; never touches archived bytes.

        One that is known to be lost or damaged without looking at its body is among them, marked `unreadable`.
        """
        refs = [copy.ref for copy in reversed(await self._reader.timeline(as_uuid(saga_id, "saga_id")))]
        held = await self._reader.held(refs)
        return [replace(ref, held=True) if ref.snapshot_id in held else ref for ref in refs]

    async def locate(self, snapshot_id: UUID | str) -> list[SnapshotRef]:
        """Every copy of a snapshot, the one that is read first, expired ones included; [] if there is none."""
        copies = await self._reader.copies(as_uuid(snapshot_id, "snapshot_id"))
        return [copy.ref for copy in copies]

    async def explain(self, snapshot_id: UUID | str) -> Explanation:
        """Where a snapshot is, by which policy, and what happens to it and its saga; by a saga's id, of its newest."""
        return await explain(self._reader, as_uuid(snapshot_id, "snapshot_id"))

    async def explain_saga(self, saga_id: UUID | str) -> SagaExplanation | None:
        """How a saga ended, and what happens to all of it; None where there is nothing of it that can be read."""
        return await explain_saga(self._reader, as_uuid(saga_id, "saga_id"))

    async def diff(
        self, saga_id: UUID | str, a: Which, b: Which = None, *, other: UUID | str | None = None
    ) -> SnapshotDiff:
        """How snapshot `a` of a saga became `b` (None: its newest), or how it differs from `b` of another saga.

        Each is a step (its newest snapshot; `charge#2` for its second), an instant, or a snapshot's id. Raises
        NoSuchSnapshot, whose hint lists what there is, and SnapshotArchived naming both where both are archived.
        """
        saga = as_uuid(saga_id, "saga_id")
        return await self._read(diff(self._reader, saga, a, b, saga if other is None else as_uuid(other, "other")))

    async def changes(self, saga_id: UUID | str) -> AsyncIterator[StepChanges]:
        """What each live snapshot of a saga changed since the one before it, oldest first; archived ones say so."""
        async for each in step_changes(self._reader, as_uuid(saga_id, "saga_id")):
            yield each

    async def find(
        self, *, limit: int = 50, cursor: str | None = None, count: bool = False, **filters: Unpack[SagaFilters]
    ) -> Page[SagaSummary]:
        """Sagas that meet all `filters`, the one that began last first, in every tier; never touches archived bytes.

        At most 10,000 sagas are looked at for a page, which may so be short: its `cursor` goes on. `count`: how many
        there are in all. Raises ConfigError for what cannot be asked, CatalogUnavailable where the answer is unknown.
        """
        with traces.span("saga.find", limit=limit):
            return await self._finder.page(filters, limit=limit, cursor=cursor, count=count)

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove a snapshot from every tier; False if no tier had it. Bytes in a pack go when the pack does.

        Raises LegalHold for a held one; nothing was removed.
        """
        return await self._remover.delete(as_uuid(snapshot_id, "snapshot_id"))

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga from every tier; how many there were. Raises LegalHold if one is held."""
        return await self._remover.cleanup(as_uuid(saga_id, "saga_id"))

    async def restore(
        self,
        saga_id: UUID | str | None = None,
        *,
        snapshot_ids: Sequence[UUID | str] | None = None,
        tier: str | None = None,
        days: int | None = None,
        into: str = "hot",
        who: str = "application",
    ) -> Restore | None:
        """Ask for the archived snapshots of a saga, or for these, to come back; None where none is in a pack.

        `tier`: Expedited, Standard or Bulk; `days`: how long they stay; `into`: "hot" (back in Redis, pinned) or
        "in-place" (read from S3). The daemon does it; `restore_status` tells how far it is. Raises ConfigError.
        """
        ids = None if snapshot_ids is None else [as_uuid(snapshot_id, "snapshot_id") for snapshot_id in snapshot_ids]
        sagas = None if saga_id is None else [as_uuid(saga_id, "saga_id")]
        wanted = Wanted(saga_ids=sagas, snapshot_ids=ids)
        return await self._restorer.request(wanted, tier=tier, days=days, into=into, who=who)

    async def restore_status(self, restore_id: UUID | str) -> Restore | None:
        """A restore and how far it is."""
        return await self._tiers.catalog.restores.get(as_uuid(restore_id, "restore_id"))

    async def cancel_restore(self, restore_id: UUID | str) -> bool:
        """End a restore; what it brought back may leave Redis again. False if it had ended."""
        wanted = as_uuid(restore_id, "restore_id")
        return await self._tiers.catalog.restores.cancel(wanted, self._tiers.clock.now())

    async def hold(self, saga_id: UUID | str, reason: str, *, who: str = "application") -> Hold:
        """Place a legal hold: nothing of the saga expires or can be deleted until `release`. Raises ConfigError.

        A saga that is not there is held from its first snapshot on; `covered` tells what is there now, and
        `publish_journal` whether the bucket knows of it by then, too; else a daemon tells it.
        """
        hold = await self._holder.hold(as_uuid(saga_id, "saga_id"), reason=reason, who=who)
        await self.publish_journal()
        return hold

    async def release(self, saga_id: UUID | str, reason: str = "released", *, who: str = "application") -> int:
        """End the holds that were placed on this saga by its id; how many there were."""
        placed = await self._tiers.catalog.holds.in_force(as_uuid(saga_id, "saga_id"))
        count = await self._holder.release(placed, reason=reason, who=who)
        await self.publish_journal()
        return count

    async def covered(self, on: UUID | str | Match) -> Coverage:
        """What a hold or an erasure of this saga, or a hold on this match, covers now, by tier."""
        return await self._holder.covered(on if isinstance(on, Match) else as_uuid(on, "saga_id"))

    async def publish_journal(self) -> str:
        """Have the bucket know holds, releases and erasures, for a few seconds; why it does not yet, "" when it does.

        They call it themselves. Where this process may not write there, a daemon does it within seconds.
        """
        return "" if self._publish is None else await self._publish()

    async def forget(
        self, saga_id: UUID | str, *, reason: str = "asked by the application", who: str = "application"
    ) -> ErasureReceipt:
        """Erase a saga: every snapshot and replay log in every tier, for good; the receipt says what is left of it.

        Unreadable when this returns; packs that hold bytes of it are written anew by the job `compact`, but for
        encrypted ones: their key is destroyed, which ends every copy. Raises LegalHold (nothing was removed),
        TierUnavailable (repeat it: nothing is half erased for readers). Where no tier knows anything of the saga the
        order is recorded all the same, and the receipt says so (`found_nothing`).
        """
        receipt = await self._remover.forget(as_uuid(saga_id, "saga_id"), who=who, reason=reason)
        await self.publish_journal()
        return receipt

    async def delete_expired_snapshots(self) -> int:
        """Run the expire job now, in every tier; how many copies went (0 if another process is at it)."""
        return 0 if self._expire is None else await self._expire()

    async def save_replay_log(self, replay_result: ReplayResult) -> None:
        """Insert or replace the record of a replay (ours or sagaz's)."""
        await self._tiers.catalog.replays.save(replay_result)

    async def _read(self, answer: Awaitable[_Answer]) -> _Answer:
        with measured_read("tiered"):
            try:
                found = await answer
            except SnapshotArchived as exc:
                await self._restorer.met(exc)
                raise
            if traces.tracer is not None:
                first = found[0] if isinstance(found, list) and found else found
                traces.note(saga_name=getattr(first, "saga_name", None))
            return found

    async def health_check(self) -> Health:
        """Ask every tier; counts snapshots by walking Redis, so not for every second."""
        return await check_health(self._tiers)

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of; asks no server."""
        return {
            "storage_type": "tiered",
            "hot": str(self._tiers.hot.connection.settings.url),
            "catalog": self._tiers.catalog.db.shown_url,
            "cold": self._tiers.objects.url,
            "policies": [policy.name for policy in self._tiers.policies.policies],
            "policy_revision": self._tiers.policies.revision,
            "compression_enabled": self._tiers.hot.connection.settings.compression_level is not None,
        }
