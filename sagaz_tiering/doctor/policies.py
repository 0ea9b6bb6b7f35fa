"""The configuration: what is allowed in it but probably not meant, and how old the prices are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta

from sagaz_tiering.config.load import ConfigWarning
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.costs import PriceList
from sagaz_tiering.doctor.finding import Finding, ok, warning
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.terminal import counted

OLD_PRICES = timedelta(days=365)


async def check_policies(
    config: TieringConfig, warnings: Sequence[ConfigWarning], now: datetime
) -> AsyncGenerator[Finding, None]:
    """Warnings of `policy check`, and the price list."""
    for each in warnings:
        yield warning("policy", str(each), "correct it, or leave it if it is meant; see: sagaz-tiering policy check")
    if not warnings:
        revision = PolicySet(config.policies).revision
        policies = counted(len(config.policies), "policy", "policies")
        yield ok("policy", f"{policies}, nothing doubtful (revision {revision})")
    if config.tiers.cold.is_directory and config.tiers.cold.region is None:
        yield ok("prices", "the cold tier is a directory; costs are shown by the prices of us-east-1")
        return
    prices = PriceList.load(config.tiers.cold.region)
    text = f"list prices of {prices.region} of {prices.as_of}"
    if prices.is_estimate:
        hint = "set tiers.cold.region to a region with a price list, or read all costs as estimates"
        yield warning(
            "prices", f"no prices of {config.tiers.cold.region or 'an unnamed region'}: {text} are used", hint
        )
    elif now.date() - prices.as_of > OLD_PRICES:
        yield warning("prices", f"{text}: older than a year", "upgrade sagaz-tiering, or read all costs as estimates")
    else:
        yield ok("prices", text)
