"""Which packs to write anew together, into which class, and whether that pays: the pure half of `compact`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.packs_anew import Candidate
from sagaz_tiering.clock import to_micros
from sagaz_tiering.costs.economics import NEVER, Cost, bucket_end, bucket_of, life, months, restore_cost, upload_cost
from sagaz_tiering.costs.lines import Line
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.jobs.context import chunks
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import show_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Packs that become one in the class `to`, and what that saves and costs in USD.

    `cost`: reading and writing; `thaw`: what comes before it from an archive class; `early_usd`: what the old class
    bills for leaving early, `shortfall_usd` what the new one bills beyond the stay.
    """

    packs: tuple[Pack, ...]
    to: StorageClass
    erased: bool
    cost: Cost
    thaw: Cost
    early_usd: float
    shortfall_usd: float
    saves_usd: float
    month_before_usd: float
    month_after_usd: float

    @property
    def costs_usd(self) -> float:
        """Everything that it costs."""
        return self.cost.usd + self.thaw.usd + self.early_usd + self.shortfall_usd

    @property
    def pays(self) -> bool:
        """Whether to do it."""
        return self.erased or self.saves_usd > self.costs_usd

    @property
    def changes_anything(self) -> bool:
        """Whether the new pack would be another than the one that is there."""
        return len(self.packs) > 1 or any(pack.live_count < pack.snapshot_count for pack in self.packs)

    @property
    def live_bytes(self) -> int:
        """About what the new pack will have."""
        return sum(_live_bytes(pack) for pack in self.packs)

    def to_line(self) -> Line:
        """As the planner shows it."""
        become = f"{len(self.packs)} packs become one" if len(self.packs) > 1 else "a pack is written anew"
        money = f"saves {show_usd(self.saves_usd)}, costs {show_usd(self.costs_usd)}"
        return Line(
            action="compact",
            state="planned" if self.pays else "refused",
            policy=self.packs[0].policy,
            source=self.packs[0].storage_class.value,
            to=self.to.value,
            snapshots=sum(pack.live_count for pack in self.packs),
            packs=len(self.packs),
            bytes=sum(pack.byte_size for pack in self.packs),
            requests=self.cost.requests + self.thaw.requests,
            now_usd=self.costs_usd,
            costs_usd=self.costs_usd,
            saves_usd=self.saves_usd,
            month_before_usd=self.month_before_usd,
            month_after_usd=self.month_after_usd,
            why=f"{become} of about {self.live_bytes:,} bytes: {'needed by an erasure' if self.erased else money}",
        )


def plan(
    candidates: Iterable[Candidate], *, target: int, prices: PriceList, policies: PolicySet, now: datetime
) -> list[Merge]:
    """Which packs to write anew together: same policy, class, expiry bucket and retention rules. Pure."""
    groups: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates:
        pack = candidate.pack
        key = (pack.policy, pack.storage_class.value, expiry_bucket(pack), pack.retention_revision)
        groups.setdefault(key, []).append(candidate)
    found = []
    for group in groups.values():
        group.sort(key=lambda candidate: (not candidate.erased, candidate.pack.min_created_at))
        for batch in chunks(group, lambda candidate: _live_bytes(candidate.pack), target):
            found.append(_best(batch, target=target, prices=prices, policies=policies, now=now))
    return found


def expiry_bucket(pack: Pack) -> str:
    """The month that its name says, or the later one in which the first of what lives in it expires by now.

    Sagas that go on live longer than their parts in packs were expected to.
    """
    named = bucket_of(pack.object_key)
    if named == NEVER or pack.next_expiry_at is None:
        return NEVER
    return max(named, f"{pack.next_expiry_at:%Y-%m}")


def _live_bytes(pack: Pack) -> int:
    return pack.byte_size * pack.live_count // max(pack.snapshot_count, 1)


def _best(batch: Sequence[Candidate], *, target: int, prices: PriceList, policies: PolicySet, now: datetime) -> Merge:
    """Into the class that they are in, or the one that their policy asks for by now, whichever saves more.

    Small packs may be in a warmer class than their policy's, where they cost less; together they are worth moving.
    """
    current = batch[0].pack.storage_class
    youngest = max(to_micros(candidate.pack.max_clock_at) for candidate in batch)
    asked = policies.class_at(batch[0].pack.policy, youngest, to_micros(now))
    classes = [current]
    if asked is not None and asked.coldness > current.coldness and len(batch) > 1:
        classes.append(asked)
    found = [_rewrite(batch, to, target=target, prices=prices, now=now) for to in classes]
    return max(found, key=lambda rewrite: rewrite.saves_usd - rewrite.costs_usd)


def _rewrite(batch: Sequence[Candidate], to: StorageClass, *, target: int, prices: PriceList, now: datetime) -> Merge:
    packs = tuple(candidate.pack for candidate in batch)
    current, size = packs[0].storage_class, sum(pack.byte_size for pack in packs)
    live = sum(_live_bytes(pack) for pack in packs)
    before = prices.monthly_usd(current, object_count=len(packs), total_bytes=size)
    after = prices.monthly_usd(to, object_count=max(1, live // target), total_bytes=live)
    stay = life(bucket_end(expiry_bucket(packs[0])), now)
    reads = prices.get_usd(current, 2 * len(packs), total_bytes=live)
    cost = upload_cost(prices, to) + Cost(requests=2 * len(packs), usd=reads)
    shortfall = max(prices.classes[to].minimum_duration - stay, timedelta(0))
    early = sum(prices.early_deletion_usd(current, pack.byte_size, now - pack.class_since) for pack in packs)
    return Merge(
        packs=packs,
        to=to,
        erased=any(candidate.erased for candidate in batch),
        cost=cost,
        thaw=restore_cost(prices, current, objects=len(packs), total_bytes=size),
        early_usd=early,
        shortfall_usd=after * months(shortfall),
        saves_usd=(before - after) * months(stay),
        month_before_usd=before,
        month_after_usd=after,
    )
