"""Where sagas end, for jobs: what PostgreSQL knows and what Redis has, in one look each for many sagas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.policy import NOT_PROMISED, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_FILLED_AT_ONCE = 500
"""Batches of a thousand that one run takes in; nothing waits for them."""


class SagaEnds:
    """The ends of some sagas."""

    __slots__ = ("_ends", "ahead")

    def __init__(self, ends: Mapping[UUID, SagaEnd], ahead: Mapping[UUID, SagaEnd]) -> None:
        self._ends = ends
        self.ahead = ahead
        """Of those that the catalog knows, the ends that Redis alone has."""

    def of(self, meta: SnapshotMeta, *, promised: bool = True) -> SagaEnd:
        """That of a snapshot's saga, which may go on with it; unless `promised`, without what was promised of it."""
        known = self._ends.get(meta.saga_id)
        end = SagaEnd.of(meta) if known is None else known.and_of(meta)
        return end if promised else end._replace(kept_us=NOT_PROMISED)

    def unpromised(self) -> SagaEnds:
        """The same without what was promised of them."""
        ends = {saga_id: end._replace(kept_us=NOT_PROMISED) for saga_id, end in self._ends.items()}
        return SagaEnds(ends, self.ahead)

    @property
    def known(self) -> Mapping[UUID, SagaEnd]:
        """Where the sagas end that anything is known of."""
        return self._ends


async def fill_sagas(context: JobContext) -> None:
    """Take in sagas that an earlier version left in the catalog, a good part of them in each run."""
    for _ in range(_FILLED_AT_ONCE):
        if context.stopping.is_set() or await context.catalog.sagas.fill():
            return


async def saga_ends(
    context: JobContext, saga_ids: Iterable[UUID], seen: Mapping[UUID, SagaEnd | None] | None = None
) -> SagaEnds:
    """Raises HotTierUnavailable: without Redis nobody knows whether a saga went on.

    `seen`: the ends in Redis of some of them, as it just told (None: nothing of it that can be read), so that it is not
    asked again.
    """
    ids, seen = list(set(saga_ids)), seen or {}
    ends = await context.catalog.sagas.ends(ids)
    hot = {saga_id: end for saga_id, end in seen.items() if end is not None}
    hot |= await context.hot.ends([saga_id for saga_id in ids if saga_id not in seen])
    ahead = {}
    for saga_id, end in hot.items():
        known = ends.get(saga_id)
        if known is not None and end.order_key > known.order_key:
            ahead[saga_id] = end
        ends[saga_id] = end.and_of(known)
    return SagaEnds(ends, ahead)
