"""Which class would be cheapest for what a policy keeps, and what one gives up for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagaz_tiering.costs.economics import months, restore_cost, total_usd
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import document, show_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCost:
    """A class for one policy's data: USD a month, over its whole remaining life, and to read all of it once."""

    storage_class: StorageClass
    usd_per_month: float
    usd_over_life: float
    read_all_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The classes for one policy's data, cheapest over its life first, and the choice in words."""

    policy: str
    packs: int
    bytes: int
    life: timedelta
    asked: StorageClass
    classes: tuple[ClassCost, ...]
    why: str

    @property
    def cheapest(self) -> StorageClass:
        """Over the remaining life, writing included."""
        return self.classes[0].storage_class

    @property
    def cheapest_readable(self) -> StorageClass:
        """The same of those that are read in milliseconds."""
        return next(each.storage_class for each in self.classes if not each.storage_class.is_archive)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        shown = document(self, "cheapest", "cheapest_readable", without=("life",))
        return {**shown, "life_days": round(self.life / timedelta(days=1), 1)}


def advise(prices: PriceList, policy: str, asked: StorageClass, *, packs: int, size: int, life: timedelta) -> Advice:
    """Compare all classes but ONEZONE_IA, which keeps less safe, unless it is `asked`."""
    compared = [each for each in StorageClass if each is not StorageClass.ONEZONE_IA or each is asked]
    found = [
        ClassCost(
            storage_class=each,
            usd_per_month=prices.monthly_usd(each, object_count=packs, total_bytes=size),
            usd_over_life=total_usd(prices, each, objects=packs, size=size, stay=life),
            read_all_usd=_read_all(prices, each, packs, size),
        )
        for each in compared
    ]
    found.sort(key=lambda cost: cost.usd_over_life)
    return Advice(
        policy=policy,
        packs=packs,
        bytes=size,
        life=life,
        asked=asked,
        classes=tuple(found),
        why=_why(found, asked, life),
    )


def _read_all(prices: PriceList, storage_class: StorageClass, packs: int, size: int) -> float:
    thaw = 0.0
    if storage_class.is_archive:
        thaw = restore_cost(prices, storage_class, objects=packs, total_bytes=size, tier="Standard").usd
    return thaw + prices.get_usd(storage_class, packs, total_bytes=size)


def _why(found: Sequence[ClassCost], asked: StorageClass, life: timedelta) -> str:
    best = found[0]
    of = {cost.storage_class: cost for cost in found}
    readable = next(cost for cost in found if not cost.storage_class.is_archive)
    over = f"over {months(life):.0f} months"
    parts = [
        f"{best.storage_class} is cheapest {over} ({show_usd(best.usd_over_life)}; {asked}, which the policy asks for, "
        f"{show_usd(of[asked].usd_over_life)})"
        if best.storage_class is not asked
        else f"{asked}, which the policy asks for, is cheapest {over} ({show_usd(best.usd_over_life)})"
    ]
    if readable is not best:
        extra = readable.usd_over_life - best.usd_over_life
        parts.append(
            f"{readable.storage_class} costs {show_usd(extra)} more in all and is read in milliseconds, where "
            f"{best.storage_class} takes hours and reading all of it once costs {show_usd(best.read_all_usd)}"
        )
    if asked is StorageClass.STANDARD_IA and of[StorageClass.GLACIER_IR].usd_over_life < of[asked].usd_over_life:
        instant = of[StorageClass.GLACIER_IR]
        share = instant.usd_per_month / of[asked].usd_per_month
        parts.append(
            f"GLACIER_IR is as readable as STANDARD_IA at {share:.0%} of its price a month; reading all of it once "
            f"costs {show_usd(instant.read_all_usd)} instead of {show_usd(of[asked].read_all_usd)}"
        )
    return "; ".join(parts)
