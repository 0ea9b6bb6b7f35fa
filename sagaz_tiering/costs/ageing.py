"""What the job `age` would pack: how many packs, of which class, and what waits for company."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial

from sagaz_tiering.costs.buckets import bucket_end
from sagaz_tiering.costs.choice import first_class
from sagaz_tiering.costs.economics import upload_cost
from sagaz_tiering.costs.inputs import Due, Inputs, PackGroup
from sagaz_tiering.costs.lines import Line, added
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.policy import Policy, PolicySet

VALUE_TO_PACK_RATIO = 4
"""Values compressed alone against the same in frames, measured: 2.8x and 12x. Used until there are packs to tell."""


def by_bucket(due: Iterable[Due]) -> Iterator[list[Due]]:
    """What goes into packs together: durable and hot of one policy and expiry bucket."""
    found: dict[tuple[str, str], list[Due]] = {}
    for each in due:
        found.setdefault((each.policy, each.bucket), []).append(each)
    yield from found.values()


def age_lines(
    inputs: Inputs,
    packs: Sequence[PackGroup],
    policies: PolicySet,
    prices: PriceList,
    due: Sequence[Due],
    now: datetime,
) -> Iterator[Line]:
    """What goes into packs now, and what waits; `due` is of one policy and expiry bucket."""
    policy = policies.named(due[0].policy)
    if policy is None or not policy.move:
        return
    snapshots = sum(each.snapshots for each in due)
    size = _packed_size(packs, due)
    ready = min(each.since for each in due) + policy.linger <= now
    count = -(-size // inputs.pack_target) if ready else size // inputs.pack_target
    going = size if ready else count * inputs.pack_target
    share = going / max(size, 1)
    outcomes = added({each.outcome: each.snapshots} for each in due)
    go = {outcome: round(number * share) for outcome, number in outcomes.items()}
    line = partial(Line, action="age", policy=policy.name, source="+".join(sorted({each.tier for each in due})))
    if count:
        clock_at = max(each.youngest_clock_at for each in due)
        until = _until(policy, due[0].bucket, clock_at)
        first = first_class(prices, policy, size=going // count, clock_at=clock_at, until=until, now=now)
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
        waits = f"less than a pack of {inputs.pack_target:,} bytes; sealed undersized once it has waited `linger`"
        rest = snapshots - round(snapshots * share)
        yield line(
            state="waiting",
            to=policy.move[0].to.value,
            snapshots=rest,
            bytes=size - going,
            why=waits,
            outcomes={outcome: number - go[outcome] for outcome, number in outcomes.items()},
        )


def _packed_size(packs: Sequence[PackGroup], due: Sequence[Due]) -> int:
    """About the bytes that these snapshots will have in packs: as those of the policy that are there, or of any."""
    snapshots = sum(each.snapshots for each in due)
    for known in ([g for g in packs if g.policy == due[0].policy], packs):
        packed = sum(group.packed for group in known)
        if packed:
            return max(1, math.ceil(snapshots * sum(group.bytes for group in known) / packed))
    return max(1, sum(each.value_bytes for each in due) // VALUE_TO_PACK_RATIO)


def _until(policy: Policy, bucket: str, clock_at: datetime) -> datetime | None:
    return clock_at + policy.lifetime if policy.lifetime is not None else bucket_end(bucket)
