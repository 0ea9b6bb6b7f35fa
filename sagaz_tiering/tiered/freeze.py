"""What must not be replaced: snapshots under a legal hold, and saved ones of policies with `rewrite: refuse`.

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
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.config.patterns import Match, matcher
from sagaz_tiering.errors import (
    CatalogUnavailable,
    CorruptData,
    HotTierUnavailable,
    LegalHold,
    RewriteRefused,
    SnapshotArchived,
    SnapshotLost,
)
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import Durability, Policy, Rewrite
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.tiered.freshness import Freshness
from sagaz_tiering.tiered.merge import Copy
from sagaz_tiering.tiered.read import Reader

_log = Logger(__name__)
_ANSWER_SECONDS = 2.0
"""So long it waits for PostgreSQL to say whether it has a held version of the id, and leaves it alone after that."""


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
        return bool(self._freshness.held or self._held) or policy.rewrite is Rewrite.REFUSE

    async def asks(self, meta: SnapshotMeta, policy: Policy) -> bool:
        """Whether a save must be looked at first, by the holds that the last look told of."""
        held = self._freshness.held
        if held != self._held:
            self._held, self._names = held, [matcher(Match.model_validate_json(one).saga_name) for one in held]
        if policy.rewrite is Rewrite.REFUSE:
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
            if policy.rewrite is Rewrite.REFUSE or policy.durability is Durability.DURABLE:
                raise
            return True  # Redis acknowledges alone; the job `age` meets the hold
        held = await self._reader.held([copy.ref for copy in copies]) if copies else set()
        refused = policy.rewrite is Rewrite.REFUSE and bool(copies)
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
