"""Sagas as jobs take them: where they end, as PostgreSQL and Redis know it; and their claims.

A claimed saga is looked at, perhaps packed, and acknowledged with the time when it is due next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid4

from sagaz_tiering.hot.layout import SHARDS, ClaimedSaga, IndexedHeader, end_of
from sagaz_tiering.hot.tier import FIRST_HEADERS
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.mending import mended, readable, set_due_aside
from sagaz_tiering.objects.base import in_pages
from sagaz_tiering.policy import NOT_PROMISED, Decision, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_FILLED_AT_ONCE = 500
"""Batches of a thousand that one run takes in; nothing waits for them."""
UNKNOWN = -1
"""As the number of snapshots left: something is not as it was seen, so the saga is looked at again."""
_FORGET_FROM = 4096


class SagaEnds:
    """The ends of some sagas."""

    __slots__ = ("ahead", "known")

    def __init__(self, known: Mapping[UUID, SagaEnd], ahead: Mapping[UUID, SagaEnd]) -> None:
        self.known = known
        """Where the sagas end that anything is known of."""
        self.ahead = ahead
        """Of those that the catalog knows, the ends that Redis alone has."""

    def of(self, meta: SnapshotMeta, *, promised: bool = True) -> SagaEnd:
        """That of a snapshot's saga, which may go on with it; unless `promised`, without what was promised of it."""
        known = self.known.get(meta.saga_id)
        end = SagaEnd.of(meta) if known is None else known.and_of(meta)
        return end if promised else end._replace(kept_us=NOT_PROMISED)

    def unpromised(self) -> SagaEnds:
        """The same without what was promised of them."""
        ends = {saga_id: end._replace(kept_us=NOT_PROMISED) for saga_id, end in self.known.items()}
        return SagaEnds(ends, self.ahead)


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


@dataclass(slots=True, eq=False)
class Claim:
    """What is known of a claimed saga so far. It ends when nothing of it waits in an open pack any more."""

    saga: ClaimedSaga
    left: int = 0
    next_due_us: int | None = None
    next_expiry_us: int | None = None
    open_parts: int = 0
    read: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing of it waits any more."""
        return self.read and self.open_parts == 0

    def look_at(self, due_us: int | None) -> None:
        """Have the age job look again at `due_us` at the latest."""
        if due_us is not None and (self.next_due_us is None or due_us < self.next_due_us):
            self.next_due_us = due_us

    def follow(self, decision: Decision) -> None:
        """Its own next times count. What has expired is the expire job's alone: `age` would meet it without end."""
        self.look_at(None if decision.expired else decision.due_us)
        self.expire_at(decision.expires_us)

    def expire_at(self, expires_us: int | None) -> None:
        """Have the expire job look at `expires_us` at the latest."""
        if expires_us is not None and (self.next_expiry_us is None or expires_us < self.next_expiry_us):
            self.next_expiry_us = expires_us


class OpenClaims:
    """The claims under way in a run, by saga. Those that are over are forgotten now and then, so it stays small."""

    def __init__(self) -> None:
        self._open: dict[UUID, Claim] = {}
        self._enough = _FORGET_FROM

    def begin(self, claimed: Iterable[ClaimedSaga], *, left: int = 0) -> list[Claim]:
        """Claims of these sagas, but for those that are under way still (their claims may have run out)."""
        if len(self._open) >= self._enough:
            self._open = {saga_id: claim for saga_id, claim in self._open.items() if not claim.is_over}
            self._enough = max(_FORGET_FROM, 2 * len(self._open))
        begun = []
        for saga in claimed:
            claim = self._open.get(saga.saga_id)
            if claim is None or claim.is_over:
                self._open[saga.saga_id] = claim = Claim(saga, left=left)
                begun.append(claim)
        return begun

    def unfinished(self) -> list[Claim]:
        """Those that are not over."""
        return [claim for claim in self._open.values() if not claim.is_over]


async def claims(context: JobContext, *, expiring: bool) -> AsyncIterator[list[ClaimedSaga]]:
    """Batches of sagas that are due, shard by shard, until there is none that nobody works on."""
    queue, token = context.hot.queue, f"{context.owner}/{uuid4().hex}"
    most, ttl = context.settings.jobs.batch_sagas, context.settings.jobs.claim_ttl
    for shard in SHARDS:
        while not context.stopping.is_set():
            claimed, strange = await queue.claim(
                shard=shard, expiring=expiring, now_us=context.now_us, count=most, ttl=ttl, token=token
            )
            await set_due_aside(context, queue.due_index(shard, expiring=expiring), strange)
            if claimed:
                await mended(context, [saga.saga_id for saga in claimed])
                yield claimed
            elif not strange:
                break


async def due_sagas(context: JobContext, *, expiring: bool) -> AsyncIterator[list[UUID]]:
    """The same sagas without claiming them, for a dry run."""
    for shard in SHARDS:
        due = context.hot.queue.due_sagas(shard, expiring=expiring, now_us=context.now_us)
        async for batch in in_pages(due, context.settings.jobs.batch_sagas):
            yield batch


class HeadersPage(NamedTuple):
    """Headers of a saga, oldest first, and what those tell that can be read."""

    saga_id: UUID
    headers: Sequence[IndexedHeader]
    metas: Sequence[SnapshotMeta]

    @property
    def is_all(self) -> bool:
        """Of a saga's first headers: whether it has no others."""
        return len(self.headers) < FIRST_HEADERS

    @property
    def end(self) -> SagaEnd | None:
        """Where the saga ends, if these are its last; None where that cannot be told."""
        if not self.headers:
            return None
        last = self.headers[-1]
        if self.metas and self.metas[-1].snapshot_id == last.snapshot_id:
            return SagaEnd.of(self.metas[-1])
        return end_of(self.saga_id, last.head or b"")


def _page(saga_id: UUID, headers: Sequence[IndexedHeader]) -> HeadersPage:
    return HeadersPage(saga_id, headers, readable(saga_id, headers))


async def first_headers(context: JobContext, saga_ids: Iterable[UUID]) -> list[HeadersPage]:
    """The first headers of these sagas, which are all that most of them have, few trips for all; not of one whose index
    is broken: whoever claims it makes it anew. Of one that has more nothing is read yet."""
    ids = list(dict.fromkeys(saga_ids))
    broken = set(await context.hot.queue.broken_indexes(ids))
    whole = [saga_id for saga_id in ids if saga_id not in broken]
    found = zip(whole, await context.hot.queue.first_headers(whole), strict=True)
    pages = (HeadersPage(saga_id, headers, ()) for saga_id, headers in found)
    return [_page(page.saga_id, page.headers) if page.is_all else page for page in pages]


async def all_headers(context: JobContext, first: Iterable[HeadersPage]) -> AsyncIterator[HeadersPage]:
    """All headers of all of them."""
    for page in first:
        if page.is_all:
            yield page
            continue
        async for headers in context.hot.headers(page.saga_id):
            yield _page(page.saga_id, headers)


async def headers_of(context: JobContext, saga_ids: Iterable[UUID]) -> AsyncIterator[HeadersPage]:
    """All headers of these sagas; two trips for all that are small."""
    async for page in all_headers(context, await first_headers(context, saga_ids)):
        yield page


async def ack(context: JobContext, open_claims: Iterable[Claim]) -> None:
    """Acknowledge the claims that are complete: each saga is due next when its claim says."""
    done = [claim for claim in open_claims if claim.is_over]
    await context.hot.queue.ack([(t.saga, t.left, t.next_due_us, t.next_expiry_us) for t in done], context.now_us)


async def nack(context: JobContext, open_claims: Iterable[Claim]) -> None:
    """Give claims up that were not finished; their sagas stay due."""
    await context.hot.queue.ack([(claim.saga, UNKNOWN, None, None) for claim in open_claims], context.now_us)
