"""What the same snapshots cost as objects of their own, in packs, and in packs compressed with a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.storage_class import StorageClass

DICTIONARY_RATIO = 19
"""A saga's five order snapshots of 10 KB in one frame with a trained dictionary of 64 KB: measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Objects and bytes, and USD by class: once for writing them, and a month for keeping them."""

    name: str
    objects: int
    bytes: int
    put_usd: Mapping[StorageClass, float]
    month_usd: Mapping[StorageClass, float]


def compare_layouts(
    prices: PriceList,
    *,
    snapshots: int,
    snapshot_bytes: int,
    pack_bytes: int = 32 * 2**20,
    ratio: float = DICTIONARY_RATIO,
) -> tuple[Layout, Layout, Layout]:
    """(one object each, packs of the bytes as they are, packs of what compression by `ratio` leaves)."""
    raw = snapshots * snapshot_bytes
    small = round(raw / ratio)
    return (
        _layout("single objects", prices, objects=snapshots, size=raw),
        _layout("packs", prices, objects=-(-raw // pack_bytes), size=raw),
        _layout("packs + dictionary", prices, objects=-(-small // pack_bytes), size=small),
    )


def _layout(name: str, prices: PriceList, *, objects: int, size: int) -> Layout:
    return Layout(
        name=name,
        objects=objects,
        bytes=size,
        put_usd={each: prices.put_usd(each, objects) for each in StorageClass},
        month_usd={each: prices.monthly_usd(each, object_count=objects, total_bytes=size) for each in StorageClass},
    )
