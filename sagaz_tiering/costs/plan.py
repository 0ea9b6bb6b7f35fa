"""The plan: what would age, move, expire and be written anew at an instant, and what that costs and saves.

Each job is planned alone, on what is there now: a pack that both moves and is written anew counts in both lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from sagaz_tiering.costs.advice import Advice, advise
from sagaz_tiering.costs.economics import NEVER, bucket_end, ends_at, first_class, judge_pack, life, upload_cost
from sagaz_tiering.costs.lines import BILLED, Due, Inputs, Line, PackGroup, added, merged
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.policy import Policy, PolicySet
from sagaz_tiering.terminal import document

__all__ = ["Advice", "Plan", "plan"]

OLD_PRICES: Final = timedelta(days=180)
VALUE_TO_PACK_RATIO: Final = 4
"""Values compressed alone against the same in frames, measured: 2.8x and 12x. Used until there are packs to tell."""


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
    return _Planner(inputs, policies, prices, now, in_force or policies).plan()


class _Planner:
    """A plan in the making: of one state of things, by one set of policies, at one instant."""

    def __init__(
        self, inputs: Inputs, policies: PolicySet, prices: PriceList, now: datetime, in_force: PolicySet
    ) -> None:
        self._inputs, self._policies, self._prices, self._now = inputs, policies, prices, now
        self._groups = [self._dated(group, in_force) for group in inputs.packs]

    def plan(self) -> Plan:
        inputs, prices = self._inputs, self._prices
        shares = [(group, self._expired_share(group)) for group in self._groups]
        staying = [group for group, share in shares if share < 1]
        together: dict[tuple[str, str], list[Due]] = {}  # goes into packs together: of one policy and expiry bucket
        for each in inputs.due:
            together.setdefault((each.policy, each.bucket), []).append(each)
        ageing = [line for due in together.values() for line in self._age(due)]
        moving = [line for group in staying for line in self._transitions(group)]
        lines = tuple(merged([*ageing, *moving, *self._expiries(shares), *inputs.rewriting]))
        return Plan(
            at=self._now,
            revision=self._policies.revision,
            region=prices.region,
            prices_as_of=prices.as_of.isoformat(),
            currency=prices.currency,
            lines=lines,
            advice=tuple(self._advice(staying, ageing)),
            warnings=tuple(self._caveats(lines)),
            estimates=inputs.estimates,
            month_before_usd=sum(map(self._monthly, (*inputs.packs, *inputs.retiring))),
        )

    def _dated(self, group: PackGroup, in_force: PolicySet) -> PackGroup:
        """The group with the expiry that the policies give it, where the catalog's was computed by other rules."""
        policy, before = self._policies.named(group.policy), in_force.named(group.policy)
        if policy is None or group.outcomes is not None:
            return group
        if group.retention_revision == self._policies.retention_revision:
            return group
        same = before is not None and _retention_of(policy) == _retention_of(before)
        if same and group.retention_revision == in_force.retention_revision:
            return group
        if policy.lifetime is None:
            return replace(group, bucket=NEVER, next_expiry_at=None, expired=0)
        return replace(group, next_expiry_at=group.min_created_at + policy.lifetime, expired=None)

    def _expired_share(self, group: PackGroup) -> float:
        """Which share of the live snapshots has expired, 0 to 1: counted, or as if spread evenly."""
        if not group.snapshots:
            return 1.0
        if group.expired is not None:
            return group.expired / group.snapshots
        now, first = self._now, group.next_expiry_at
        last = ends_at(self._policies.named(group.policy), group)
        if first is None or last is None or now < first:
            return 0.0
        return 1.0 if now >= last else (now - first) / (last - first)

    def _age(self, due: Sequence[Due]) -> Iterator[Line]:
        """What goes into packs now, and what waits; `due` is of one policy and expiry bucket."""
        policy, prices, target = self._policies.named(due[0].policy), self._prices, self._inputs.pack_target
        if policy is None or not policy.move:
            return
        snapshots = sum(each.snapshots for each in due)
        size = self._packed_size(due)
        ready = min(each.since for each in due) + policy.linger <= self._now
        count = -(-size // target) if ready else size // target
        going = size if ready else count * target
        share = going / max(size, 1)
        outcomes = added({each.outcome: each.snapshots} for each in due)
        go = {outcome: round(number * share) for outcome, number in outcomes.items()}
        line = partial(Line, action="age", policy=policy.name, source="+".join(sorted({each.tier for each in due})))
        if count:
            clock_at = max(each.youngest_clock_at for each in due)
            until = bucket_end(due[0].bucket) if policy.lifetime is None else clock_at + policy.lifetime
            first = first_class(prices, policy, size=going // count, clock_at=clock_at, until=until, now=self._now)
            cost = upload_cost(prices, first.storage_class, count)
            yield line(
                state="planned",
                to=first.storage_class.value,
                snapshots=round(snapshots * share),
                packs=count,
                bytes=going,
                requests=cost.requests,
                now_usd=cost.usd,
                costs_usd=cost.usd,
                month_after_usd=prices.monthly_usd(first.storage_class, object_count=count, total_bytes=going),
                why=first.why,
                outcomes=go,
            )
        if going < size:
            yield line(
                state="waiting",
                to=policy.move[0].to.value,
                snapshots=snapshots - round(snapshots * share),
                bytes=size - going,
                why=f"less than a pack of {target:,} bytes; sealed undersized once it has waited `linger`",
                outcomes={outcome: number - go[outcome] for outcome, number in outcomes.items()},
            )

    def _packed_size(self, due: Sequence[Due]) -> int:
        """About the bytes that these snapshots will have in packs: as those of the policy that are there, or of any."""
        snapshots = sum(each.snapshots for each in due)
        for known in ([group for group in self._groups if group.policy == due[0].policy], self._groups):
            packed = sum(group.packed for group in known)
            if packed:
                return max(1, math.ceil(snapshots * sum(group.bytes for group in known) / packed))
        return max(1, sum(each.value_bytes for each in due) // VALUE_TO_PACK_RATIO)

    def _transitions(self, group: PackGroup) -> Iterator[Line]:
        """The coldest due move that pays, and the colder ones that were refused before it."""
        policy, current = self._policies.named(group.policy), group.storage_class
        for move in reversed(policy.move if policy else ()):
            if policy is None or group.max_clock_at + move.after > self._now or move.to.coldness <= current.coldness:
                continue
            verdict = judge_pack(self._prices, policy, move, group, self._now)
            goes = verdict.pays or policy.even_if_costlier
            yield Line(
                action="transition",
                state="planned" if goes else "refused",
                policy=group.policy,
                source=current.value,
                to=move.to.value,
                snapshots=group.snapshots,
                packs=group.packs,
                bytes=group.bytes,
                why=verdict.why,
                **{name: getattr(verdict, name) for name in BILLED},
            )
            if goes:
                return

    def _expiries(self, shares: Iterable[tuple[PackGroup, float]]) -> Iterator[Line]:
        """What goes, by group and the share of it (0 to 1) that has expired; a pack's bytes only go with its last."""
        line = partial(Line, action="expire", state="planned", to=None)
        for near in self._inputs.expired:
            yield line(
                policy=near.policy,
                source=near.tier,
                snapshots=near.snapshots,
                bytes=near.value_bytes,
                outcomes={near.outcome: near.snapshots},
            )
        for group, share in shares:
            found = line(
                policy=group.policy,
                source=group.storage_class.value,
                snapshots=round(group.snapshots * min(1.0, share)),
                outcomes=group.outcomes or {},
            )
            if share >= 1:
                age = self._now - group.class_since
                early = self._prices.early_deletion_usd(group.storage_class, group.bytes, age, object_count=group.packs)
                monthly = self._monthly(group)
                gone = replace(found, packs=group.packs, bytes=group.bytes)
                yield replace(gone, now_usd=early, costs_usd=early, month_before_usd=monthly)
            elif found.snapshots:
                yield found

    def _advice(self, staying: Sequence[PackGroup], ageing: Sequence[Line]) -> Iterator[Advice]:
        now = self._now
        for policy in self._policies.policies:
            groups = [group for group in staying if group.policy == policy.name]
            coming = [line for line in ageing if line.policy == policy.name and line.state == "planned"]
            packs = sum(group.packs for group in groups) + sum(line.packs for line in coming)
            size = sum(group.bytes for group in groups) + sum(line.bytes for line in coming)
            if not policy.move or not packs:
                continue
            fresh = life(None if policy.lifetime is None else now + policy.lifetime - policy.move[0].after, now)
            lives = [(group.bytes, life(ends_at(policy, group), now)) for group in groups]
            lives += [(line.bytes, fresh) for line in coming]
            mean = sum((span * (weight / max(size, 1)) for weight, span in lives), timedelta(0))
            yield advise(self._prices, policy.name, policy.move[-1].to, packs=packs, size=size, life=mean)

    def _caveats(self, lines: Sequence[Line]) -> Iterator[str]:
        """What to know before believing or running the plan."""
        inputs, prices = self._inputs, self._prices
        days = (self._now.date() - prices.as_of).days
        if days > OLD_PRICES.days:
            yield f"the prices are of {prices.as_of.isoformat()}, {days} days before: compare with {prices.source}"
        if inputs.in_directory:
            yield f"the cold tier is a directory, which bills nothing: the figures are those of S3 in {prices.region}"
        elif prices.is_estimate:
            yield f"there is no price file of this region: these are the prices of {prices.region}, as an estimate"
        if inputs.shortens:
            yield (
                "by these policies snapshots may end earlier than they were promised to: a run of `expire` stops and "
                "asks where that is more than jobs.expire_max_share; see sagaz-tiering job expire --dry-run"
            )
        orphans = sorted({group.policy for group in self._groups if self._policies.named(group.policy) is None})
        if orphans:
            yield f"packs of policies that are not configured move no more: {', '.join(orphans)}"
        refused = sum(line.packs for line in lines if (line.action, line.state) == ("transition", "refused"))
        if refused:
            yield (
                f"moves of packs refused because they cost more than they save: {refused:,}; "
                "`even_if_costlier: true` in the policy moves them all the same"
            )
        planned = [line for line in lines if line.state == "planned"]
        usd, requests = sum(line.now_usd for line in planned), sum(line.requests for line in planned)
        if inputs.budget_usd is not None and usd > inputs.budget_usd:
            yield f"${usd:,.2f} is more than budget.usd_per_day, ${inputs.budget_usd:,.2f}: it takes several days"
        most = inputs.budget_requests
        if most is not None and requests > most:
            yield f"{requests:,} requests are more than budget.requests_per_day, {most:,}: it takes several days"

    def _monthly(self, group: PackGroup) -> float:
        return self._prices.monthly_usd(group.storage_class, object_count=group.packs, total_bytes=group.bytes)


def _retention_of(policy: Policy) -> tuple[object, ...]:
    return policy.retain, policy.retention, policy.clock
