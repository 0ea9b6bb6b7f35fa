"""The write path: Redis, PostgreSQL or both, as the snapshot's policy asks.

`durable`: acknowledged once PostgreSQL has it; Redis gets it first, so that no reader trusts a Redis that lacks
an acknowledged snapshot. `hot`: acknowledged once Redis has it. A save that finds Redis down falls back:
acknowledged once PostgreSQL has it and every reader can know (see `catalog.durable`).

Of two saves of one snapshot the one that comes later stays, whatever the clocks of their hosts say. A store takes no
save that is not newer than what was done to the snapshot there, and says when that was; the save is then given the next
instant once, and again where another of the same instant comes between. One that is refused still has been replaced by
a save that was made meanwhile. The other store is given the same instant; where that one refuses, so is the first
again. So both keep the same save in the end.

A server that failed is left alone until it answers a ping in the background: each try would cost its whole time-out. No
save is refused for that alone: one that nobody else can take asks it all the same (PostgreSQL then for a second).

What a legal hold or `rewrite: refuse` forbids is looked at before, or when a store says so (`tiered.hold`).

Concurrent saves travel together (`drivers.redis.multiplexed`, `catalog.group_commit`); saves of one id queue up in a
process.
"""

from __future__ import annotations

import asyncio

from sagaz_tiering import metrics
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.codec.threaded import encode_value
from sagaz_tiering.codec.unsupported import texts_for
from sagaz_tiering.codec.value import saved_at
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable, LegalHold, TierUnavailable
from sagaz_tiering.hot.layout import FOREIGN_INDEX, NotTaken
from sagaz_tiering.logs import Logger, Repeated
from sagaz_tiering.policy import Durability, PolicySet, SagaEnd
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.tiered.freshness import PAUSE_S, Freshness, Pause
from sagaz_tiering.tiered.hold import Freezer
from sagaz_tiering.tiered.hot_notes import HotNotes
from sagaz_tiering.tiers import Tiers

_log = Logger(__name__)


class _Turn:
    """Who saves one id, one after the other; the lock is made where somebody must wait, which is rare."""

    lock: asyncio.Lock | None = None
    users = 1

    async def wait(self) -> None:
        if self.lock is None:
            self.lock = asyncio.Lock()
            await self.lock.acquire()  # at once, for who came first
        await self.lock.acquire()


class Saver:
    """Puts snapshots where their policy wants them."""

    def __init__(
        self,
        tiers: Tiers,
        freshness: Freshness,
        freezer: Freezer,
        notes: HotNotes,
        catalog_pause: Pause,
    ) -> None:
        self._tiers, self._in_force = tiers, tiers.in_force
        self._hot, self._durable = tiers.hot, tiers.catalog.durable
        self._freshness, self._freezer, self._notes = freshness, freezer, notes
        self.follow()
        self._hot_pause, self._catalog_pause = Pause(tiers.hot.connection.ping), catalog_pause
        self._fallbacks, self._left_out = Repeated(), Repeated()
        self._turns: dict[int, _Turn] = {}

    def follow(self) -> None:
        """Other settings are in force."""
        self._texts = texts_for(self._in_force.settings.limits.on_unsupported, "tiered")

    async def encoded(self, snapshot: SagaSnapshot) -> tuple[SnapshotMeta, bytes]:
        """What to `put`, saved now. Raises InvalidSnapshot where it would not come back equal."""
        tiers = self._tiers
        return await encode_value(
            snapshot,
            saved_us=to_micros(tiers.clock.now()),
            level=tiers.hot.connection.settings.compression_level,
            dictionary=tiers.dictionaries.for_writing(snapshot.saga_name),
            max_bytes=self._in_force.settings.limits.max_snapshot,
            texts=self._texts,
            attributes=self._column(snapshot) if self._in_force.attributes.names else "",
        )

    def _column(self, snapshot: SagaSnapshot) -> str:
        """The column of the attributes in force of a snapshot. Nothing in a context makes it fail."""
        found = self._in_force.attributes.of(snapshot.saga_name, snapshot.context)
        for attribute, reason in found.left_out:
            metrics.ATTRIBUTES_LEFT_OUT.labels(attribute=attribute, reason=reason).inc()
            times = self._left_out.due((attribute, reason))
            if times is not None:
                _log.warning(
                    "attribute.left_out",
                    attribute=attribute,
                    reason=reason,
                    snapshot_id=str(snapshot.snapshot_id),
                    saga_id=str(snapshot.saga_id),
                    hint="the snapshot is saved, but not found by these values; see the limits of attributes",
                    **times,
                )
        return found.column

    async def put(self, snapshot: SagaSnapshot, meta: SnapshotMeta, value: bytes) -> Durability:
        """Returns when the snapshot, `encoded`, is acknowledged, and how; raises TierUnavailable if it is not.

        Raises LegalHold or RewriteRefused where it must not replace what is there.
        """
        turns, id_ = self._turns, meta.snapshot_id.int
        turn = turns.get(id_)
        if turn is None:
            turn = turns[id_] = _Turn()
        else:
            turn.users += 1
        try:
            if turn.users > 1:
                await turn.wait()
            try:
                return await self._put_unless_frozen(_Save(meta, value, self._in_force.policies), snapshot)
            finally:
                if turn.lock is not None:
                    turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del turns[id_]

    async def _put_unless_frozen(self, save: _Save, snapshot: SagaSnapshot) -> Durability:
        freezer, policy = self._freezer, save.policy
        if self._freshness.is_look_due:
            await self._freshness.look_before_save()
        if freezer.may_ask(policy):
            save.may_be_held = not await freezer.asks(save.meta, policy)
        for last in (False, False, True):
            if not save.may_be_held and not await freezer.may_store(snapshot, save.meta, policy):
                break
            known = self._freshness.changes
            try:
                at_us = await self._to_both(save)
                if at_us is not None:
                    await self._until_taken(save, at_us)
                if not self._acknowledged(save, known):
                    await self._save_again(save)
                break
            except _SagaHeld:
                save.may_be_held = False
            except LegalHold:  # PostgreSQL has it, and Redis has taken it
                await freezer.put_back(save.meta)
                save.may_be_held = False
                if last:
                    raise
        return policy.durability

    def _acknowledged(self, save: _Save, known: int | None) -> bool:
        """Redis had been found to be another one so often before. False: it was since, so it must be asked again."""
        if save.hot_error is not None:  # PostgreSQL had to take it: the first of an outage is told, and once in a while
            metrics.SAVES_IN_PLACE.inc()
            times, error = self._fallbacks.due("spilled"), save.hot_error
            if times is not None:
                about = {"snapshot_id": str(save.meta.snapshot_id), "error": str(error), "hint": error.hint}
                _log.warning("snapshot.spilled", **about, **times)
            return True
        self._fallbacks.over()
        if save.policy.durability is Durability.HOT:
            self._notes.add(save.meta, save.expires_us, known)
            return True
        return save.changes is None or save.changes == known

    async def _to_both(self, save: _Save) -> int | None:
        """Redis, then PostgreSQL where the policy wants it or Redis is down."""
        durability = save.policy.durability
        try:
            if self._hot_pause.is_on:
                raise _LeftAlone("Redis failed a moment ago and is left alone until it answers")
            await self._to_hot(save)
        except HotTierUnavailable as exc:
            save.hot_error = exc
        if durability is Durability.HOT and save.hot_error is None:
            return None
        try:
            return await self._to_durable(save)
        except CatalogUnavailable as exc:
            if durability is Durability.HOT and isinstance(save.hot_error, _LeftAlone):
                try:
                    await self._to_hot(save)
                    return None
                except HotTierUnavailable as again:
                    save.hot_error = again
            raise _of_both(save.hot_error, exc) from exc

    async def _until_taken(self, save: _Save, at_us: int | None) -> None:
        """PostgreSQL refused it, since something was done at `at_us`: put it once more, an instant later."""
        while at_us is not None:
            save.move_on(at_us + 1)
            at_us = await self._to_both(save)
            if at_us != save.meta.saved_us:
                return  # stored, or replaced by a save that is later still; of two of the same instant both go on

    async def _to_hot(self, save: _Save) -> None:
        """Until Redis takes it, an instant later where something is in its way, or has a save that is later still."""
        moved_on = False
        while True:
            try:
                answer = await self._hot.store(
                    save.meta,
                    save.value,
                    due_us=save.due_us,
                    expires_us=save.expires_us,
                    held_too=not save.may_be_held,
                    replacing_too=not self._freezer.any_match,
                    alone=save.policy.durability is Durability.HOT,
                )
            except HotTierUnavailable:
                self._hot_pause.begin()
                raise
            self._hot_pause.end()
            refused = NotTaken.of(answer)
            if refused is not None and refused.held:
                raise _SagaHeld
            if refused is not None and refused.foreign:
                what = f"Redis has something else in the place of the index of saga {save.meta.saga_id}"
                raise HotTierUnavailable(what, hint=FOREIGN_INDEX)
            if refused is None or (moved_on and refused.at_us != save.meta.saved_us):
                save.hot_error = None
                return
            save.move_on(refused.at_us + 1)
            moved_on = True

    async def _to_durable(self, save: _Save) -> int | None:
        try:
            put = await self._durable.put(
                save.meta,
                save.value,
                due_us=save.due_us,
                expires_us=save.expires_us,
                fallback=save.hot_error is not None,
                deadline_s=PAUSE_S if self._catalog_pause.is_on else None,
            )
        except CatalogUnavailable:
            self._catalog_pause.begin()
            raise
        self._catalog_pause.end()
        save.changes = put.changes
        return put.in_the_way_us

    async def _save_again(self, save: _Save) -> None:
        """Redis took it, and was found to be another one before PostgreSQL had it: `reconcile` may not have seen it."""
        try:
            await self._hot.save(save.meta, save.value, due_us=save.due_us, expires_us=save.expires_us)
        except HotTierUnavailable:
            await self._durable.mark_fallback([(save.meta.snapshot_id, from_micros(save.meta.saved_us))])


class _LeftAlone(HotTierUnavailable):
    """Redis was not asked."""


def _of_both(hot_error: HotTierUnavailable | None, error: CatalogUnavailable) -> TierUnavailable:
    """Which servers failed, and what to do about each."""
    if hot_error is None:
        return error
    kind = type(hot_error) if not isinstance(hot_error, _LeftAlone) else HotTierUnavailable
    return kind(f"{hot_error}; and {error}", hint=f"{hot_error.hint}; {error.hint}")


class _SagaHeld(Exception):
    """Its saga is held, so it must be looked at before it may replace anything."""


class _Save:
    """One save on its way; its instant may move on.

    `may_be_held`: nobody has looked yet. `hot_error`: why Redis did not take it. `changes`: see `catalog.durable.Put`.
    """

    may_be_held = True
    hot_error: HotTierUnavailable | None = None
    changes: int | None = None

    def __init__(self, meta: SnapshotMeta, value: bytes, policies: PolicySet) -> None:
        self.meta, self.value, self._policies = meta, value, policies
        self.policy, self.due_us, self.expires_us = policies.dates(meta, SagaEnd.of(meta))

    def move_on(self, to_us: int) -> None:
        """It is saved at that instant (microseconds)."""
        meta, value = saved_at(self.meta, self.value, to_us)
        self.meta, self.value = meta, value
        self.policy, self.due_us, self.expires_us = self._policies.dates(meta, SagaEnd.of(meta))
