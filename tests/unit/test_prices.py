"""Prices against hand calculations."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.storage_class import StorageClass

KB, MB, GB = 2**10, 2**20, 2**30
MILLION = 10**6
PRICES = PriceList.load("us-east-1")


def test_price_list_is_dated_and_complete() -> None:
    """Every class has prices, and the list says of when and where they are."""
    assert set(PRICES.classes) == set(StorageClass)
    assert (PRICES.region, PRICES.currency, PRICES.is_estimate) == ("us-east-1", "USD", False)
    assert date(2026, 1, 1) < PRICES.as_of < date(2030, 1, 1)
    assert PRICES.source.startswith("https://")


@pytest.mark.parametrize("region", [None, "mars-north-1", "", "../us-east-1"])
def test_unknown_region_falls_back_to_an_estimate(region: str | None) -> None:
    """Without a price file of its own a region gets us-east-1's prices, marked as an estimate."""
    prices = PriceList.load(region)
    assert (prices.region, prices.is_estimate) == ("us-east-1", True)
    assert prices.classes == PRICES.classes


@pytest.mark.parametrize(
    ("storage_class", "single_objects", "packs"),
    [("STANDARD", 6.58, 6.58), ("STANDARD_IA", 152.59, 3.58), ("GLACIER", 29.56, 1.03)],
)
def test_hundred_million_small_snapshots_cost_what_the_design_says(
    storage_class: str, single_objects: float, packs: float
) -> None:
    """100 M snapshots of 3 KB per month: as single objects, and in 32 MiB packs."""
    total = 100 * MILLION * 3 * KB
    one = PRICES.monthly_usd(StorageClass(storage_class), object_count=100 * MILLION, total_bytes=total)
    packed = PRICES.monthly_usd(StorageClass(storage_class), object_count=total // (32 * MB), total_bytes=total)
    assert round(one, 2) == single_objects
    assert round(packed, 2) == packs


def test_billed_bytes_hold_minimum_and_overhead() -> None:
    """128 KB at least for the infrequent classes, 32 KB more for the archives, nothing for STANDARD."""

    def billed(name: str, size: int) -> int:
        return PRICES.billed_bytes(StorageClass(name), object_count=1, total_bytes=size)

    assert [billed(name, KB) for name in StorageClass] == [
        KB, 128 * KB, 128 * KB, 128 * KB, 33 * KB, 33 * KB
    ]  # fmt: skip
    assert billed("STANDARD_IA", 128 * KB + 1) == 128 * KB + 1


def test_requests_cost_per_thousand() -> None:
    """PUT, transition and GET of each class; reading an infrequent class also per GB."""
    assert PRICES.put_usd(StorageClass.STANDARD, 1000) == pytest.approx(0.005)
    assert PRICES.put_usd(StorageClass.GLACIER, 100 * MILLION) == pytest.approx(3000)
    assert PRICES.put_usd(StorageClass.GLACIER_IR, 1000) == pytest.approx(0.02)
    assert PRICES.get_usd(StorageClass.STANDARD, 10_000, total_bytes=GB) == pytest.approx(0.004)
    assert PRICES.get_usd(StorageClass.STANDARD_IA, 1000, total_bytes=2 * GB) == pytest.approx(0.021)
    assert PRICES.get_usd(StorageClass.GLACIER_IR, 1000, total_bytes=GB) == pytest.approx(0.04)


def test_restore_options_name_wait_and_cost_standard_first() -> None:
    """A thousand packs of 1 GB from GLACIER: the requests dominate the expedited way."""
    options = PRICES.restore_options(StorageClass.GLACIER, GB, 1000)
    assert [(o.tier, o.eta) for o in options] == [
        ("Standard", timedelta(hours=5)),
        ("Expedited", timedelta(minutes=5)),
        ("Bulk", timedelta(hours=12)),
    ]
    assert [o.cost_usd for o in options] == pytest.approx([10.05, 40.0, 0.0])


def test_restore_options_of_the_other_classes() -> None:
    """Deep archive has two ways, readable classes have none, and copies cost STANDARD's rate by the day."""
    deep = PRICES.restore_options(StorageClass.DEEP_ARCHIVE, 10 * GB)
    assert [(o.tier, o.eta) for o in deep] == [("Standard", timedelta(hours=12)), ("Bulk", timedelta(hours=48))]
    assert deep[0].cost_usd == pytest.approx(0.2001)
    assert PRICES.restore_options(StorageClass.GLACIER_IR, GB) == []
    with_copy = PRICES.restore_options(StorageClass.GLACIER, 10 * GB, days=3)
    assert with_copy[0].cost_usd == pytest.approx(10 * 0.01 + 0.00005 + 10 * 0.023 * 3 / 30)


@pytest.mark.parametrize(("age_days", "expected"), [(0, 0.0036 * 3), (30, 0.0036 * 2), (90, 0.0), (1000, 0.0)])
def test_early_deletion_bills_the_rest_of_the_minimum(age_days: int, expected: float) -> None:
    """1 GB in GLACIER bills 90 days, however early it goes (overhead of one object aside)."""
    cost = PRICES.early_deletion_usd(StorageClass.GLACIER, GB, timedelta(days=age_days))
    assert cost == pytest.approx(expected, rel=1e-3)


def test_minimum_durations_are_those_of_s3() -> None:
    """What the policy checks compare with."""
    days = {name.value: length.days for name, length in PRICES.minimum_durations.items()}
    assert days == {
        "STANDARD": 0, "STANDARD_IA": 30, "ONEZONE_IA": 30, "GLACIER_IR": 90, "GLACIER": 90, "DEEP_ARCHIVE": 180
    }  # fmt: skip
