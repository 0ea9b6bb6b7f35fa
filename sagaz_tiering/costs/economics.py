"""What putting, moving and restoring objects costs, whether a move saves more than it costs (guarantee G10), and so
where a pack goes: the class that its policy asks for, unless that costs more than it saves.

A move saves the difference of the two classes' monthly bills for as long as the data stays where it goes: until it
expires or moves on, and 12 months where it is kept for ever. It costs its requests, the retrieval from the class it
leaves, what that class still bills for early deletion, and what the new class bills beyond the stay (its minimum
duration). S3 rounds small objects up (128 KB) or adds 40 KB to each, which is what makes moves of them lose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sagaz_tiering.costs.lines import PackGroup
from sagaz_tiering.costs.prices import BILLING_MONTH, PriceList
from sagaz_tiering.policy import Move, Policy
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import counted, show_usd

NEVER = "never"


def bucket_of(object_key: str) -> str:
    """The expiry bucket in a pack's key: `never` or `yyyy-mm`."""
    return object_key.split("/")[-2]


def bucket_end(bucket: str) -> datetime | None:
    """The first instant after the bucket's month; None for `never`."""
    if bucket == NEVER:
        return None
    year, month = map(int, bucket.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def ends_at(policy: Policy | None, group: PackGroup) -> datetime | None:
    """When a pack's last snapshot expires, as far as its row tells; None: never.

    `policy` is the pack's (None where it is not configured any more). A policy's `retain` counts from the youngest
    snapshot; without one the month in the pack's key bounds what its snapshots say themselves.
    """
    if policy is not None and policy.lifetime is not None:
        end: datetime | None = group.max_clock_at + policy.lifetime
    elif group.next_expiry_at is None:
        return None
    else:
        end = bucket_end(group.bucket)
    return max((each for each in (end, group.next_expiry_at) if each is not None), default=None)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstClass:
    """The class for a new pack, and why it is not the one that was asked for (empty: it is)."""

    storage_class: StorageClass
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one snapshot costs, by its share of its pack's bytes: a month, and since its pack was written."""

    usd_per_month: float
    usd_to_date: float


def stay_in(policy: Policy, to: StorageClass, clock_at: datetime, until: datetime | None, now: datetime) -> timedelta:
    """How long data of that policy and clock time stays in `to`: until it expires, or a colder move comes due.

    Moves that are due by now were looked at before and refused; they do not count.
    """
    ahead = [clock_at + move.after for move in policy.move if move.to.coldness > to.coldness]
    ends = [moment - now for moment in ahead if moment > now]
    return min([*ends, life(until, now)])


def total_usd(prices: PriceList, storage_class: StorageClass, *, objects: int, size: int, stay: timedelta) -> float:
    """Writing objects into a class and leaving them there, at least for its minimum duration."""
    least = max(stay, prices.classes[storage_class].minimum_duration)
    monthly = prices.monthly_usd(storage_class, object_count=objects, total_bytes=size)
    return upload_cost(prices, storage_class, objects).usd + monthly * months(least)


def choose_class(prices: PriceList, asked: StorageClass, *, size: int, stay: timedelta) -> StorageClass:
    """`asked`, unless STANDARD costs less over the whole stay; then the cheapest readable class not colder."""

    def usd(storage_class: StorageClass) -> float:
        return total_usd(prices, storage_class, objects=1, size=size, stay=stay)

    if usd(asked) <= usd(StorageClass.STANDARD):
        return asked
    readable = [each for each in StorageClass if not each.is_archive and each.coldness <= asked.coldness]
    # ONEZONE_IA, which one fire can end, only where it is asked for.
    return min((each for each in readable if each is not StorageClass.ONEZONE_IA or each is asked), key=usd)


def first_class(
    prices: PriceList, policy: Policy, *, size: int, clock_at: datetime, until: datetime | None, now: datetime
) -> FirstClass:
    """The class for a pack of `size` bytes that is about to be written by the policy's first move."""
    asked = policy.move[0].to
    stay = stay_in(policy, asked, clock_at, until, now)
    chosen = asked if policy.even_if_costlier else choose_class(prices, asked, size=size, stay=stay)
    if chosen is asked:
        return FirstClass(storage_class=asked)
    figures = [total_usd(prices, each, objects=1, size=size, stay=stay) for each in (asked, chosen)]
    return FirstClass(
        storage_class=chosen,
        why=(
            f"{size:,} bytes for {months(stay):.1f} months would cost {show_usd(figures[0])} in {asked} and "
            f"{show_usd(figures[1])} in {chosen}, so they go to {chosen} first"
        ),
    )


def judge_pack(prices: PriceList, policy: Policy, move: Move, group: PackGroup, now: datetime) -> Verdict:
    """What this move of a pack (or of many alike) costs and saves."""
    return judge_move(
        prices,
        current=group.storage_class,
        to=move.to,
        objects=group.packs,
        total_bytes=group.bytes,
        in_class=now - group.class_since,
        stay=stay_in(policy, move.to, group.max_clock_at, ends_at(policy, group), now),
    )


def share_cost(
    prices: PriceList, policy: Policy | None, group: PackGroup, *, share: float, written_at: datetime, now: datetime
) -> Share:
    """What a snapshot that has `share` (0 to 1) of a pack's bytes costs.

    The catalog keeps the time of a pack's last move; before it, it counts as in the class of the move before.
    """
    size, current = group.bytes, group.storage_class
    monthly = prices.monthly_usd(current, object_count=1, total_bytes=size)
    before = _class_before(policy.move if policy else (), current)
    moved = before is not None and group.class_since - written_at > timedelta(hours=1)
    if before is None or not moved:
        to_date = upload_cost(prices, current).usd + monthly * months(max(now - written_at, timedelta(0)))
    else:
        earlier = prices.monthly_usd(before, object_count=1, total_bytes=size)
        cost, retrieval = transition_cost(prices, before, current, objects=1, total_bytes=size)
        to_date = upload_cost(prices, before).usd + earlier * months(group.class_since - written_at)
        to_date += cost.usd + retrieval + monthly * months(max(now - group.class_since, timedelta(0)))
    return Share(usd_per_month=monthly * share, usd_to_date=to_date * share)


def _class_before(moves: Iterable[Move], current: StorageClass) -> StorageClass | None:
    warmer = [move.to for move in moves if move.to.coldness < current.coldness]
    if warmer:
        return warmer[-1]
    return None if current is StorageClass.STANDARD else StorageClass.STANDARD
