"""Where a pack goes: the class that its policy asks for, unless that costs more than it saves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sagaz_tiering.costs.buckets import ends_at
from sagaz_tiering.costs.economics import Verdict, judge_move, life, months, transition_cost, upload_cost
from sagaz_tiering.costs.inputs import PackGroup
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.policy import Move, Policy
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import show_usd


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


def readable_classes(asked: StorageClass) -> list[StorageClass]:
    """Readable classes not colder than `asked`; ONEZONE_IA, which one fire can end, only where it is asked for."""
    return [
        each
        for each in StorageClass
        if not each.is_archive
        and each.coldness <= asked.coldness
        and (each is not StorageClass.ONEZONE_IA or each is asked)
    ]


def choose_class(
    prices: PriceList, asked: StorageClass, *, objects: int = 1, size: int, stay: timedelta
) -> StorageClass:
    """`asked`, unless STANDARD costs less over the whole stay; then the cheapest readable class not colder."""

    def usd(storage_class: StorageClass) -> float:
        return total_usd(prices, storage_class, objects=objects, size=size, stay=stay)

    if usd(asked) <= usd(StorageClass.STANDARD):
        return asked
    return min(readable_classes(asked), key=usd)


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
    until = ends_at(policy, group.bucket, group.max_clock_at, group.next_expiry_at)
    return judge_move(
        prices,
        current=group.storage_class,
        to=move.to,
        objects=group.packs,
        total_bytes=group.bytes,
        in_class=now - group.class_since,
        stay=stay_in(policy, move.to, group.max_clock_at, until, now),
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
