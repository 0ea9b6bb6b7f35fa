"""What to know before believing or running a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sagaz_tiering.costs.inputs import Inputs, PackGroup
from sagaz_tiering.costs.lines import Line
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.policy import PolicySet

OLD_PRICES = timedelta(days=180)


def caveats(
    inputs: Inputs,
    lines: Sequence[Line],
    groups: Sequence[PackGroup],
    policies: PolicySet,
    prices: PriceList,
    now: datetime,
) -> Iterator[str]:
    """Old or foreign prices, shorter retention, packs that no policy moves, refused moves, more than a day's budget."""
    if now.date() - prices.as_of > OLD_PRICES:
        days = (now.date() - prices.as_of).days
        yield f"the prices are of {prices.as_of.isoformat()}, {days} days before: compare with {prices.source}"
    if inputs.in_directory:
        yield f"the cold tier is a directory, which bills nothing: the figures are those of S3 in {prices.region}"
    elif prices.is_estimate:
        yield f"there is no price file of this region: these are the prices of {prices.region}, as an estimate"
    if inputs.shortens:
        yield (
            "by these policies snapshots may end earlier than they were promised to: a run of `expire` stops and asks "
            "where that is more than jobs.expire_max_share; see sagaz-tiering job expire --dry-run"
        )
    orphans = sorted({group.policy for group in groups if policies.named(group.policy) is None})
    if orphans:
        yield f"packs of policies that are not configured move no more: {', '.join(orphans)}"
    refused = [line for line in lines if line.state == "refused" and line.action == "transition"]
    if refused:
        count = sum(line.packs for line in refused)
        yield (
            f"moves of packs refused because they cost more than they save: {count:,}; "
            "`even_if_costlier: true` in the policy moves them all the same"
        )
    planned = [line for line in lines if line.state == "planned"]
    usd, requests = sum(line.now_usd for line in planned), sum(line.requests for line in planned)
    if inputs.budget_usd is not None and usd > inputs.budget_usd:
        yield f"${usd:,.2f} is more than budget.usd_per_day, ${inputs.budget_usd:,.2f}: it takes several days"
    if inputs.budget_requests is not None and requests > inputs.budget_requests:
        yield (
            f"{requests:,} requests are more than budget.requests_per_day, {inputs.budget_requests:,}: it takes "
            "several days"
        )
