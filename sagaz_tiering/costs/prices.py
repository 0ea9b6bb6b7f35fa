"""List prices of one region, read from its dated data file, and what storing, moving and reading costs by them.

A GB is 2**30 bytes, a month 30 days, money is in `PriceList.currency`, as S3 bills it. Only list prices of
the first volume tier: no free tier, discounts, data transfer or taxes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from sagaz_tiering.errors import RestoreOption
from sagaz_tiering.storage_class import StorageClass

DEFAULT_REGION = "us-east-1"
GB = 2**30
BILLING_MONTH = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePrices:
    """One way to restore from an archive class: its longest usual wait and its prices per GB and 1,000 requests."""

    tier: str
    eta: timedelta
    per_gb: float
    per_1k: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPrices:
    """Prices and billing rules of one storage class.

    Each object is billed as at least `minimum_billed_bytes`, plus `overhead_bytes` at this class's rate, plus
    `standard_overhead_bytes` at STANDARD's, for at least `minimum_duration`.
    """

    gb_month: float
    put_per_1k: float
    get_per_1k: float
    retrieval_gb: float
    minimum_billed_bytes: int
    overhead_bytes: int
    standard_overhead_bytes: int
    minimum_duration: timedelta
    restore: tuple[RestorePrices, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """The prices of one region on one day.

    `is_estimate` is True where the asked region has no price file and these are another region's prices.
    """

    region: str
    as_of: date
    source: str
    currency: str
    classes: Mapping[StorageClass, ClassPrices]
    is_estimate: bool = False

    @classmethod
    def load(cls, region: str | None) -> PriceList:
        """The price list of `region`; of us-east-1 as an estimate where it has none (or is None)."""
        known = region is not None and region in regions()
        return _read(region if known and region else DEFAULT_REGION, is_estimate=not known)

    @property
    def minimum_durations(self) -> dict[StorageClass, timedelta]:
        """The time that each class bills at least."""
        return {storage_class: prices.minimum_duration for storage_class, prices in self.classes.items()}

    def billed_bytes(self, storage_class: StorageClass, *, object_count: int, total_bytes: int) -> int:
        """Bytes billed at the class's own rate: the minimum size and the overhead of each object included.

        The objects count as equally large; of mixed sizes the small ones bill more than this says.
        """
        prices = self.classes[storage_class]
        return max(total_bytes, object_count * prices.minimum_billed_bytes) + object_count * prices.overhead_bytes

    def monthly_usd(self, storage_class: StorageClass, *, object_count: int, total_bytes: int) -> float:
        """Storing `object_count` objects of together `total_bytes` for a month."""
        prices = self.classes[storage_class]
        billed = self.billed_bytes(storage_class, object_count=object_count, total_bytes=total_bytes)
        index = object_count * prices.standard_overhead_bytes
        return (billed * prices.gb_month + index * self.classes[StorageClass.STANDARD].gb_month) / GB

    def put_usd(self, storage_class: StorageClass, requests: int) -> float:
        """`requests` PUT, COPY or LIST requests into the class."""
        return requests * self.classes[storage_class].put_per_1k / 1000

    def get_usd(self, storage_class: StorageClass, requests: int, *, total_bytes: int = 0) -> float:
        """`requests` GET requests that read `total_bytes` together. In an archive class: after the restore."""
        prices = self.classes[storage_class]
        return requests * prices.get_per_1k / 1000 + total_bytes / GB * prices.retrieval_gb

    def restore_options(
        self, storage_class: StorageClass, object_bytes: int, objects: int = 1, *, days: int = 0
    ) -> list[RestoreOption]:
        """The ways to restore `objects` objects of `object_bytes` each, Standard first; none for a readable class.

        With `days`, the temporary copies at STANDARD's rate for so long are included.
        """
        size_gb = object_bytes * objects / GB
        copies = size_gb * self.classes[StorageClass.STANDARD].gb_month * (timedelta(days=days) / BILLING_MONTH)
        return [
            RestoreOption(
                tier=way.tier, eta=way.eta, cost_usd=size_gb * way.per_gb + objects * way.per_1k / 1000 + copies
            )
            for way in self.classes[storage_class].restore
        ]

    def early_deletion_usd(
        self, storage_class: StorageClass, total_bytes: int, age: timedelta, *, object_count: int = 1
    ) -> float:
        """What deleting or moving objects of `age` (time in this class) still bills: the rest of the minimum."""
        rest = max(timedelta(0), self.classes[storage_class].minimum_duration - age)
        monthly = self.monthly_usd(storage_class, object_count=object_count, total_bytes=total_bytes)
        return monthly * (rest / BILLING_MONTH)


@cache
def regions() -> frozenset[str]:
    """Regions that have a price file."""
    names = (entry.name for entry in resources.files(__package__).iterdir())
    return frozenset(name.removesuffix(".json") for name in names if re.fullmatch(r"[a-z0-9-]+\.json", name))


@cache
def _read(region: str, *, is_estimate: bool) -> PriceList:
    text = resources.files(__package__).joinpath(f"{region}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    classes = {StorageClass(name): _class_prices(values) for name, values in data["classes"].items()}
    return PriceList(
        region=data["region"],
        as_of=date.fromisoformat(data["as_of"]),
        source=data["source"],
        currency=data["currency"],
        classes=MappingProxyType(classes),
        is_estimate=is_estimate,
    )


def _class_prices(values: Mapping[str, Any]) -> ClassPrices:
    ways = [
        RestorePrices(
            tier=way["tier"], eta=timedelta(minutes=way["eta_minutes"]), per_gb=way["gb"], per_1k=way["per_1k"]
        )
        for way in values["restore"]
    ]
    figures = {name: figure for name, figure in values.items() if name not in ("minimum_days", "restore")}
    return ClassPrices(**figures, minimum_duration=timedelta(days=values["minimum_days"]), restore=tuple(ways))


def minimum_durations(region: str | None) -> Mapping[StorageClass, timedelta]:
    """How long each class is paid for at least, by the price list of a region."""
    return PriceList.load(region).minimum_durations
