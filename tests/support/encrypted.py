"""A product whose snapshots are encrypted per saga, and what an attacker could get hold of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.keys.key_file import generate
from sagaz_tiering.packs.entries import FrameEntry
from sagaz_tiering.packs.format import locate_footer, parse_footer
from sagaz_tiering.snapshot import SagaSnapshot
from support.tiers import DAY, Places, Product, config, rule

POLICIES: list[dict[str, Any]] = [
    rule("secret", ["order-*", "secret"], {"STANDARD_IA": "7d", "GLACIER": "60d"}, encryption="per-saga"),
    rule("open", "*", {"STANDARD_IA": "7d"}),
]


def key_file(folder: Path, name: str = "first") -> Path:
    """A file with a master key."""
    path = folder / "master.keys"
    generate(path, name)
    return path


def encrypted(places: Places, **sections: Any) -> TieringConfig:
    """A configuration over a directory, by default with the key file of `key_file` beside it."""
    key = {"key_file": Path(places["cold"]).with_name("master.keys")}
    return config(**{**places, "policies": POLICIES, "encryption": key, **sections})


async def save_all(shop: Product, snapshots: Sequence[SagaSnapshot]) -> None:
    """Save these, many at a time."""
    for start in range(0, len(snapshots), 200):
        await asyncio.gather(*map(shop.storage.save_snapshot, snapshots[start : start + 200]))


async def aged(shop: Product, snapshots: Sequence[SagaSnapshot]) -> None:
    """Saved, and in packs."""
    await save_all(shop, snapshots)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    assert await shop.hot_count() == 0


async def unharmed(shop: Product, snapshots: Sequence[SagaSnapshot]) -> None:
    """Each saga lists exactly these."""
    sagas: dict[UUID, list[SagaSnapshot]] = {}
    for snapshot in snapshots:
        sagas.setdefault(snapshot.saga_id, []).append(snapshot)
    for saga_id, of_saga in sagas.items():
        assert await shop.storage.list_snapshots(saga_id) == of_saga[::-1]


def bucket(folder: Path) -> dict[str, bytes]:
    """Every pack's bytes, archived or not: what a copy of the bucket holds."""
    return {str(path.parent): path.read_bytes() for path in (folder / "cold").rglob("*.pack.object/data")}


def frames_of(data: bytes, saga_id: UUID) -> list[tuple[FrameEntry, bytes]]:
    """A saga's frames in a pack, found with no catalog and no key."""
    place = locate_footer(data, len(data))
    footer = parse_footer(data[place.offset : place.offset + place.length], place.checksum, version=place.version)
    return [
        (frame, data[frame.offset : frame.offset + frame.length]) for frame in footer.frames if frame.saga_id == saga_id
    ]


async def copy_database(url: str, server_url: str, name: str) -> str:
    """A copy of a database, whose sessions end with that, as a dump would give it back; its URL."""
    copied = url.rsplit("/", 1)[1].partition("?")[0]
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(
            f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{copied}'"
        )
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {copied}")
    finally:
        await connection.close()
    server, _, options = url.rpartition(copied)  # a role may have the same name
    return f"{server}{name}{options}"
