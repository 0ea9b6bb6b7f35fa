"""What putting, moving and restoring objects costs, and whether a move saves more than it costs (guarantee G10).

A move saves the difference of the two classes' monthly bills for as long as the data stays where it goes: until it
expires or moves on, and 12 months where it is kept for ever. It costs its requests, the retrieval from the class it
leaves, what that class still bills for early deletion, and what the new class bills beyond the stay (its minimum
duration). S3 rounds small objects up (128 KB) or adds 40 KB to each, which is what makes moves of them lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sagaz_tiering.costs.prices import BILLING_MONTH, PriceList
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import counted, show_usd

FOR_EVER = timedelta(days=365)
"""So far ahead savings count for data that never expires."""
THAW_DAYS = 2
"""So long an archived pack stays readable that must be thawed to be moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Requests to S3 and all that they cost together, retrieval included."""

    requests: int = 0
    usd: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(requests=self.requests + other.requests, usd=self.usd + other.usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What moving `objects` objects of together `bytes` from one class to another costs and saves, in USD.

    `early_usd`: what the old class bills for leaving early; `shortfall_usd`: what the new one bills after the stay.
    """

    current: StorageClass
    to: StorageClass
    objects: int
    bytes: int
    stay: timedelta
    requests: int
    requests_usd: float
    retrieval_usd: float
    early_usd: float
    shortfall_usd: float
    month_before_usd: float
    month_after_usd: float

    @property
    def costs_usd(self) -> float:
        """Everything that the move costs beside the new class's bill during the stay."""
        return self.requests_usd + self.retrieval_usd + self.early_usd + self.shortfall_usd

    @property
    def now_usd(self) -> float:
        """What is billed for the move itself."""
        return self.requests_usd + self.retrieval_usd + self.early_usd

    @property
    def saves_usd(self) -> float:
        """Both monthly bills' difference over the stay; negative where the new class bills more."""
        return (self.month_before_usd - self.month_after_usd) * months(self.stay)

    @property
    def pays(self) -> bool:
        """Whether it saves more than it costs."""
        return self.saves_usd > self.costs_usd

    @property
    def why(self) -> str:
        """The figures in one sentence."""
        each = self.bytes // max(self.objects, 1)
        return (
            f"{counted(self.objects, 'object')} of {each:,} bytes {self.current} -> {self.to}: "
            f"{show_usd(self.month_before_usd)} -> {show_usd(self.month_after_usd)} a month "
            f"for {months(self.stay):.1f} months saves {show_usd(self.saves_usd)}, costs {show_usd(self.costs_usd)} "
            f"(requests {show_usd(self.requests_usd)}, retrieval {show_usd(self.retrieval_usd)}, "
            f"minimum durations {show_usd(self.early_usd + self.shortfall_usd)})"
        )


def months(span: timedelta) -> float:
    """In months of 30 days, as S3 bills."""
    return span / BILLING_MONTH


def life(until: datetime | None, now: datetime) -> timedelta:
    """How long data that expires at `until` still costs; FOR_EVER where it never does."""
    return FOR_EVER if until is None else max(until - now, timedelta(0))


def upload_cost(prices: PriceList, storage_class: StorageClass, objects: int = 1) -> Cost:
    """Writing packs: PUT and HEAD, then the footer read back, or copied to STANDARD where it cannot be read."""
    usd = prices.put_usd(storage_class, objects) + prices.get_usd(storage_class, objects)
    if storage_class.is_archive:
        return Cost(requests=3 * objects, usd=usd + prices.put_usd(StorageClass.STANDARD, objects))
    return Cost(requests=4 * objects, usd=usd + prices.get_usd(storage_class, 2 * objects))


def transition_cost(
    prices: PriceList, current: StorageClass, to: StorageClass, *, objects: int, total_bytes: int
) -> tuple[Cost, float]:
    """(requests, USD of retrieval) of moving packs in place: COPY and three HEAD, and before an archive the footer.

    A copy reads its source, which the infrequent classes bill per GB; an archive is thawed first, the cheapest way.
    """
    requests, usd = 4 * objects, prices.put_usd(to, objects) + prices.get_usd(to, 3 * objects)
    if to.is_archive and not current.is_archive:
        requests += 3 * objects
        usd += prices.get_usd(current, 2 * objects) + prices.put_usd(StorageClass.STANDARD, objects)
    retrieval = prices.get_usd(current, 0, total_bytes=total_bytes)
    if current.is_archive:
        requests += objects
        retrieval += restore_cost(prices, current, objects=objects, total_bytes=total_bytes).usd
    return Cost(requests=requests, usd=usd), retrieval


def restore_cost(
    prices: PriceList,
    storage_class: StorageClass,
    *,
    objects: int,
    total_bytes: int,
    tier: str | None = None,
    days: int = THAW_DAYS,
) -> Cost:
    """Thawing objects by a retrieval tier (None: the cheapest); nothing for a class that is readable."""
    each = round(total_bytes / max(objects, 1))
    ways = prices.restore_options(storage_class, each, objects, days=days)
    if not ways:
        return Cost()
    chosen = next((way for way in ways if way.tier == tier), None) or min(ways, key=lambda way: way.cost_usd)
    return Cost(requests=objects, usd=chosen.cost_usd)


def judge_move(
    prices: PriceList,
    *,
    current: StorageClass,
    to: StorageClass,
    objects: int,
    total_bytes: int,
    in_class: timedelta,
    stay: timedelta,
) -> Verdict:
    """What a move costs and saves. `in_class`: how long they were in `current`; `stay`: how long in `to`."""
    cost, retrieval = transition_cost(prices, current, to, objects=objects, total_bytes=total_bytes)
    after = prices.monthly_usd(to, object_count=objects, total_bytes=total_bytes)
    shortfall = max(prices.classes[to].minimum_duration - stay, timedelta(0))
    return Verdict(
        current=current,
        to=to,
        objects=objects,
        bytes=total_bytes,
        stay=stay,
        requests=cost.requests,
        requests_usd=cost.usd,
        retrieval_usd=retrieval,
        early_usd=prices.early_deletion_usd(current, total_bytes, in_class, object_count=objects),
        shortfall_usd=after * months(shortfall),
        month_before_usd=prices.monthly_usd(current, object_count=objects, total_bytes=total_bytes),
        month_after_usd=after,
    )
