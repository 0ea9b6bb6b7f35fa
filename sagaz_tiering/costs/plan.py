"""The plan: what would age, move, expire and be written anew at an instant, and what that costs and saves.

Each job is planned alone, on what is there now: a pack that both moves and is written anew counts in both lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sagaz_tiering.costs.advice import Advice, advise
from sagaz_tiering.costs.ageing import age_lines, by_bucket
from sagaz_tiering.costs.buckets import NEVER, ends_at
from sagaz_tiering.costs.caveats import caveats
from sagaz_tiering.costs.choice import judge_pack
from sagaz_tiering.costs.economics import Verdict, life
from sagaz_tiering.costs.inputs import Inputs, PackGroup
from sagaz_tiering.costs.lines import Line, merged
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.policy import Policy, PolicySet
from sagaz_tiering.terminal import document

__all__ = ["Advice", "Plan", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that would be done at `at`, by job, policy and class; what it costs; which class would be cheapest.

    `month_before_usd` is the bill of the object store for storage as it is, `month_after_usd` after all planned lines.
    """

    at: datetime
    revision: str
    region: str
    prices_as_of: str
    currency: str
    lines: tuple[Line, ...]
    advice: tuple[Advice, ...]
    warnings: tuple[str, ...]
    estimates: tuple[str, ...]
    month_before_usd: float

    @property
    def planned(self) -> tuple[Line, ...]:
        """What would be done; the rest is refused or waits."""
        return tuple(line for line in self.lines if line.state == "planned")

    @property
    def month_after_usd(self) -> float:
        return self.month_before_usd + sum(line.month_after_usd - line.month_before_usd for line in self.planned)

    @property
    def now_usd(self) -> float:
        return sum(line.now_usd for line in self.planned)

    @property
    def requests(self) -> int:
        return sum(line.requests for line in self.planned)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, "month_after_usd", "now_usd", "requests")


def plan(
    inputs: Inputs, policies: PolicySet, prices: PriceList, now: datetime, *, in_force: PolicySet | None = None
) -> Plan:
    """What `policies` would have done at `now`. Pure.

    `in_force`: the policies by which the catalog's expiry dates were computed, where they are others.
    """
    groups = [_dated(group, policies, in_force or policies) for group in inputs.packs]
    shares = [_expired_share(group, policies, now) for group in groups]
    staying = [group for group, share in zip(groups, shares, strict=True) if share < 1]
    ageing = [line for due in by_bucket(inputs.due) for line in age_lines(inputs, groups, policies, prices, due, now)]
    lines = [
        *ageing,
        *(line for group in staying for line in _transitions(group, policies, prices, now)),
        *_expiries(inputs, zip(groups, shares, strict=True), prices, now),
        *inputs.rewriting,
    ]
    found = tuple(merged(lines))
    return Plan(
        at=now,
        revision=policies.revision,
        region=prices.region,
        prices_as_of=prices.as_of.isoformat(),
        currency=prices.currency,
        lines=found,
        advice=tuple(_advice(staying, ageing, policies, prices, now)),
        warnings=tuple(caveats(inputs, found, groups, policies, prices, now)),
        estimates=inputs.estimates,
        month_before_usd=sum(_monthly(group, prices) for group in (*inputs.packs, *inputs.retiring)),
    )


def _dated(group: PackGroup, policies: PolicySet, in_force: PolicySet) -> PackGroup:
    """The group with the expiry that `policies` give it, where the catalog's was computed by other rules."""
    policy, before = policies.named(group.policy), in_force.named(group.policy)
    if policy is None or group.outcomes is not None or group.retention_revision == policies.retention_revision:
        return group
    same = before is not None and _retention_of(policy) == _retention_of(before)
    if same and group.retention_revision == in_force.retention_revision:
        return group
    if policy.lifetime is None:
        return replace(group, bucket=NEVER, next_expiry_at=None, expired=0)
    return replace(group, next_expiry_at=group.min_created_at + policy.lifetime, expired=None)


def _retention_of(policy: Policy) -> tuple[object, ...]:
    return policy.retain, policy.retention, policy.clock


def _expired_share(group: PackGroup, policies: PolicySet, now: datetime) -> float:
    """Which share of the live snapshots has expired, 0 to 1: counted, or as if spread evenly."""
    if not group.snapshots:
        return 1.0
    if group.expired is not None:
        return group.expired / group.snapshots
    first = group.next_expiry_at
    last = ends_at(policies.named(group.policy), group.bucket, group.max_clock_at, first)
    if first is None or last is None or now < first:
        return 0.0
    return 1.0 if now >= last else (now - first) / (last - first)


def _transitions(group: PackGroup, policies: PolicySet, prices: PriceList, now: datetime) -> Iterator[Line]:
    """The coldest due move that pays, and the colder ones that were refused before it."""
    policy = policies.named(group.policy)
    for move in reversed(policy.move if policy else ()):
        if policy is None or group.max_clock_at + move.after > now or move.to.coldness <= group.storage_class.coldness:
            continue
        verdict = judge_pack(prices, policy, move, group, now)
        goes = verdict.pays or policy.even_if_costlier
        yield _transition_line(group, verdict, "planned" if goes else "refused")
        if goes:
            return


def _transition_line(group: PackGroup, verdict: Verdict, state: str) -> Line:
    return Line(
        action="transition",
        state=state,
        policy=group.policy,
        source=group.storage_class.value,
        to=verdict.to.value,
        snapshots=group.snapshots,
        packs=group.packs,
        bytes=group.bytes,
        requests=verdict.requests,
        now_usd=verdict.now_usd,
        costs_usd=verdict.costs_usd,
        saves_usd=verdict.saves_usd,
        month_before_usd=verdict.month_before_usd,
        month_after_usd=verdict.month_after_usd,
        why=verdict.why,
    )


def _expiries(
    inputs: Inputs, shares: Iterable[tuple[PackGroup, float]], prices: PriceList, now: datetime
) -> Iterator[Line]:
    """What goes, by group and the share of it (0 to 1) that has expired; a pack's bytes only go with its last."""
    line = partial(Line, action="expire", state="planned", to=None)
    for near in inputs.expired:
        yield line(
            policy=near.policy,
            source=near.tier,
            snapshots=near.snapshots,
            bytes=near.value_bytes,
            outcomes={near.outcome: near.snapshots},
        )
    for group, share in shares:
        whole, expired = share >= 1, round(group.snapshots * min(1.0, share))
        if not whole and not expired:
            continue
        age = now - group.class_since
        early = prices.early_deletion_usd(group.storage_class, group.bytes, age, object_count=group.packs)
        yield line(
            policy=group.policy,
            source=group.storage_class.value,
            snapshots=expired,
            packs=group.packs if whole else 0,
            bytes=group.bytes if whole else 0,
            now_usd=early if whole else 0.0,
            costs_usd=early if whole else 0.0,
            month_before_usd=_monthly(group, prices) if whole else 0.0,
            outcomes=group.outcomes or {},
        )


def _advice(
    staying: Sequence[PackGroup], ageing: Sequence[Line], policies: PolicySet, prices: PriceList, now: datetime
) -> Iterator[Advice]:
    for policy in policies.policies:
        groups = [group for group in staying if group.policy == policy.name]
        coming = [line for line in ageing if line.policy == policy.name and line.state == "planned"]
        packs = sum(group.packs for group in groups) + sum(line.packs for line in coming)
        size = sum(group.bytes for group in groups) + sum(line.bytes for line in coming)
        if not policy.move or not packs:
            continue
        lives = [(g.bytes, life(ends_at(policy, g.bucket, g.max_clock_at, g.next_expiry_at), now)) for g in groups]
        fresh = life(None if policy.lifetime is None else now + policy.lifetime - policy.move[0].after, now)
        lives += [(line.bytes, fresh) for line in coming]
        mean = sum((span * (weight / max(size, 1)) for weight, span in lives), timedelta(0))
        yield advise(prices, policy.name, policy.move[-1].to, packs=packs, size=size, life=mean)


def _monthly(group: PackGroup, prices: PriceList) -> float:
    return prices.monthly_usd(group.storage_class, object_count=group.packs, total_bytes=group.bytes)
