"""All that `age` changes in the tiers, one method for each step; a dry run decides the same and changes nothing.

The write order of a pack, and what a crash after each step leaves:

1. a row `UPLOADING` in the catalog            -> `collect` abandons it after the upload deadline
2. the object under a fresh key                -> the same, and the object is collected
3. HEAD and footer read back and compared      -> the same
4. one transaction: pack `ACTIVE`, places of its snapshots, durable rows gone
                                               -> readable from both; the next run evicts without packing again
5. the hot copies, by compare-and-delete       -> as after 4
6. `evicted_at` on the row                     -> nothing is left to do

Data keys that it encrypts with are made here, too: without a master key a run packs what needs none, and then fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from uuid import UUID, uuid4

from sagaz_tiering.catalog.durable import ClaimedRow, Postponement
from sagaz_tiering.catalog.frame_index import AlreadyPacked
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import NewPack
from sagaz_tiering.codec.header import is_in_pack
from sagaz_tiering.costs.economics import upload_cost
from sagaz_tiering.errors import MasterKeyUnavailable
from sagaz_tiering.hot.layout import ClaimedSaga
from sagaz_tiering.jobs import reconcile
from sagaz_tiering.jobs.claims import Claim, ack, claims, due_sagas, fill_sagas, nack
from sagaz_tiering.jobs.context import JobContext, Tally, batched, pages
from sagaz_tiering.jobs.mending import mend_due
from sagaz_tiering.jobs.ownership import are_in_force, put_policies_in_force
from sagaz_tiering.jobs.pack_objects import already_packed, finish_evictions, store
from sagaz_tiering.jobs.put_back import backfill, fallback_rows, would_refill
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.entries import FrameEntry, SealedPack
from sagaz_tiering.policy import Policy
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
REQUEUE_AFTER_US = 15 * 60 * 1_000_000
"""After so long a saga whose key could not be had is looked at again; longer than a run takes to see them all."""


class AgeWrites:
    """What a run under a lease does; without one, a dry run: it looks, claims nothing, and gives the numbers that a run
    would get."""

    def __init__(self, context: JobContext, lease: Lease | None) -> None:
        self.keys = RunKeys(context, dry=lease is None)
        self.dry = lease is None
        self._context = context
        self._lease = lease
        self._token = f"{context.owner}/{uuid4().hex}"
        self._all_anew = self._unevicted = False

    async def prepare(self, tally: Tally) -> bool:
        """Put the policies in force and Redis right, end what a crash left; False where another process is at that."""
        context = self._context
        if self._lease is None:
            await self._foresee(tally)
            return True
        await mend_due(context, tally)
        await put_policies_in_force(context)
        await fill_sagas(context)
        if not await reconcile.ensure_trusted(context, tally):
            return False
        tally.add("refilled", await backfill(context, self._lease))
        tally.add("evicted", await finish_evictions(context))
        return True

    async def _foresee(self, tally: Tally) -> None:
        """Tell what a run would do first. It packs what it puts into Redis then, which is counted as durable here."""
        context = self._context
        if broken := await context.hot.queue.broken_due():
            tally.add("quarantined", len(broken))
            tally.note(f"a run makes {', '.join(broken)} anew first, and may find more snapshots that are due")
        self._unevicted = bool(await context.catalog.packs.unevicted(0, 1))
        trusted = await reconcile.foresee_trust(context, tally)
        self._all_anew = not (trusted and await are_in_force(context))
        async for rows in fallback_rows(context):
            tally.add("refilled", await would_refill(context, rows))

    def sagas(self) -> AsyncIterator[list[ClaimedSaga]]:
        """Sagas of Redis that are due, a batch at a time, claimed."""
        return self._unclaimed() if self.dry else claims(self._context, expiring=False)

    async def _unclaimed(self) -> AsyncIterator[list[ClaimedSaga]]:
        """Those that are due; all of them where a run would reconcile or put other policies in force first."""
        hot, most = self._context.hot, self._context.settings.jobs.batch_sagas
        async for found in hot.saga_ids() if self._all_anew else due_sagas(self._context, expiring=False):
            for some in batched(found, most):
                broken = await hot.queue.broken_indexes(some)
                yield [ClaimedSaga(saga_id, "") for saga_id in some if saga_id not in broken]

    async def rows(self, most: int) -> AsyncIterator[list[ClaimedRow]]:
        """Durable rows that are due, a batch at a time, claimed.

        Dry, those that Redis does not have, as a run meets the others there; all where it looks at all anew.
        """
        context, durable = self._context, self._context.catalog.durable
        due_at = None if self._all_anew else context.now

        async def fetch(after: UUID) -> list[ClaimedRow]:
            if self.dry:
                return await durable.peek_due(due_at, after, most)
            ttl = context.settings.jobs.claim_ttl
            return [] if context.stopping.is_set() else await durable.claim_due(context.now, most, ttl)

        async for rows in pages(fetch, UUID(int=0), lambda row: row.snapshot_id):
            known = await context.hot.owners([row.snapshot_id for row in rows]) if self.dry else ()
            yield [row for row in rows if row.snapshot_id not in known]

    async def claim_these(self, saga_ids: Collection[UUID]) -> list[ClaimedSaga]:
        """Of the sagas of durable rows, those that nobody works on."""
        if self.dry:
            return [ClaimedSaga(saga_id, "") for saga_id in saga_ids]
        ttl = self._context.settings.jobs.claim_ttl
        mine = await self._context.hot.queue.claim_these(sorted(saga_ids), ttl=ttl, token=self._token)
        return [ClaimedSaga(saga_id, self._token) for saga_id in mine]

    def maybe_packed(self, values: Sequence[bytes]) -> Sequence[bytes]:
        """Those that a pack may have already: what restores brought back, and what a run, before it begins, evicts
        after one that was killed."""
        return values if self._unevicted else list(filter(is_in_pack, values))

    async def postpone(self, rows: Sequence[Postponement]) -> None:
        """Durable rows are looked at again later."""
        if rows and not self.dry:
            await self._context.catalog.durable.postpone(rows)

    async def ack(self, open_claims: Iterable[Claim]) -> None:
        """Acknowledge the claims that are over."""
        if not self.dry:
            await ack(self._context, open_claims)

    async def nack(self, open_claims: Iterable[Claim]) -> None:
        """Give up claims that were not finished."""
        if not self.dry:
            await nack(self._context, open_claims)

    async def store(self, new: NewPack, sealed: SealedPack) -> int:
        """A row, the object, and a look at it; the row's id."""
        context = self._context
        if self._lease is None:
            return 0
        await context.spend("age", upload_cost(context.prices, new.storage_class))
        return await store(context, self._lease, new, sealed)

    async def activate(self, pack_id: int, frames: Sequence[FrameEntry]) -> int:
        """Publish; what another pack has in the same version or a newer one stays there. How many snapshots."""
        catalog, now = self._context.catalog, self._context.now
        metas = [meta for frame in frames for meta, _, _ in frame.snapshots]
        if self._lease is None:
            elsewhere = await already_packed(self._context, metas) | await catalog.locations.buried(metas)
            return len(metas) - len(elsewhere)
        try:
            return await catalog.packs.activate(pack_id, frames, self._lease, now)
        except AlreadyPacked as exc:
            taken = [meta for meta in metas if meta.snapshot_id in exc.snapshot_ids]
        elsewhere = await already_packed(self._context, taken)
        return await catalog.packs.activate(pack_id, frames, self._lease, now, elsewhere=elsewhere)

    async def evict(self, metas: Sequence[SnapshotMeta], tokens: Mapping[UUID, str]) -> tuple[int, set[UUID]]:
        """How many of these left Redis, and of which sagas it has nothing any more."""
        queue = self._context.hot.queue
        return (len(await queue.would_evict(metas)), set()) if self.dry else await queue.evict_claimed(metas, tokens)

    async def evicted(self, pack_id: int) -> None:
        """Nothing of the pack is left to do."""
        if not self.dry:
            await self._context.catalog.packs.evicted(pack_id, self._context.now)


def needs_key(policy: Policy) -> bool:
    """Whether frames of that policy are encrypted."""
    return policy.encryption == "per-saga"


class RunKeys:
    """Data keys of one run, and why some could not be had. A `dry` run makes none; its packs are as large as those of a
    run."""

    def __init__(self, context: JobContext, *, dry: bool) -> None:
        self._context = context
        self._dry = dry
        self._error: MasterKeyUnavailable | None = None
        self._failed = False  # the master key is not there: nothing more is asked of it in this run
        self.needed = any(map(needs_key, context.policies.policies))
        """Whether any policy encrypts."""

    async def begin(self) -> None:
        """See whether the master key works, if a policy needs one: what cannot be packed need not be read then."""
        if self.needed:
            await self._check_master()

    async def of(self, saga_ids: Collection[UUID]) -> Mapping[UUID, FrameKey]:
        """Keys of these sagas; of those that are left out the snapshots must stay."""
        found: dict[UUID, FrameKey] = {}
        if not saga_ids or self._failed:
            return found
        try:
            return await self._for_writing(saga_ids)
        except MasterKeyUnavailable as exc:
            self._note(exc)
        await self._check_master()
        # If the current master key works, a saga whose own key does not open keeps no other waiting.
        for saga_id in () if self._failed else saga_ids:
            try:
                found |= await self._for_writing([saga_id])
            except MasterKeyUnavailable as exc:
                self._note(exc)
        return found

    def check(self) -> None:
        """At the end of a run: raise MasterKeyUnavailable if snapshots stayed because of it."""
        if self._error is not None:
            raise MasterKeyUnavailable(
                f"policies with `encryption: per-saga` were not aged, nothing of them left its tier: {self._error}"
                if self._failed
                else f"some encrypted sagas were not aged: {self._error}",
                hint=self._error.hint,
            ) from self._error

    async def _for_writing(self, saga_ids: Collection[UUID]) -> dict[UUID, FrameKey]:
        keys = self._context.keys
        return await (keys.for_trial(saga_ids) if self._dry else keys.for_writing(saga_ids, self._context.now))

    async def _check_master(self) -> None:
        try:
            await self._context.keys.check()
        except MasterKeyUnavailable as exc:
            self._note(exc)
            self._failed = True

    def _note(self, exc: MasterKeyUnavailable) -> None:
        _log.error("master_key.unavailable", error=str(exc), hint=exc.hint)
        self._error = exc
