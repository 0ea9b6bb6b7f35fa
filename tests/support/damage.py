"""Changing the stored bytes of one snapshot behind a storage's back: one function per kind of storage."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import aioboto3  # type: ignore[import-untyped]  # ships no types
import asyncpg
import redis.asyncio

from sagaz_tiering.app.runtime import read_config

if TYPE_CHECKING:
    from support.stores import Place

Change = Callable[[bytes], bytes]


def altered(data: bytes) -> bytes:
    """Some bytes in the last quarter are others."""
    at = len(data) * 3 // 4
    return data[:at] + bytes(byte ^ 0x5A for byte in data[at : at + 8]) + data[at + 8 :]


def truncated(data: bytes) -> bytes:
    """Half of it."""
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    """Nothing."""
    return b""


def replaced(data: bytes) -> bytes:
    """Something else altogether."""
    return b'{"not": "one of ours"}\x00\xff'


WAYS = (altered, truncated, emptied, replaced)


async def memory(place: Place, snapshot_id: UUID, change: Change) -> None:
    """The value in the dict."""
    held = place.last_opened._snapshots
    held[snapshot_id] = held[snapshot_id]._replace(value=change(held[snapshot_id].value))


async def filesystem(place: Place, snapshot_id: UUID, change: Change) -> None:
    """The snapshot's file."""
    assert place.folder is not None
    [path] = place.folder.glob(f"snapshots/*/{snapshot_id}.json*")
    path.write_bytes(change(path.read_bytes()))


async def redis_values(place: Place, snapshot_id: UUID, change: Change) -> None:
    """Every string value under a key that names the snapshot."""
    async with redis.asyncio.Redis.from_url(place.options["redis_url"]) as client:
        await _redis_strings(client, f"{place.options['key_prefix']}*", snapshot_id, change)


async def fakeredis_values(place: Place, snapshot_id: UUID, change: Change) -> None:
    """The same where the client is all there is."""
    await _redis_strings(place.options["client"], f"{place.options['key_prefix']}*", snapshot_id, change)


async def postgresql(place: Place, snapshot_id: UUID, change: Change) -> None:
    """The row's exact form; where that would be taken for an edit by SQL, its context."""
    connection = await asyncpg.connect(place.options["connection_string"])
    try:
        body = await connection.fetchval("SELECT body FROM saga_snapshots WHERE snapshot_id = $1", snapshot_id)
        column, value = ("body", change(body)) if change(body) else ("context", '["not one of ours"]')
        await connection.execute(f"UPDATE saga_snapshots SET {column} = $2 WHERE snapshot_id = $1", snapshot_id, value)
    finally:
        await connection.close()


async def s3(place: Place, snapshot_id: UUID, change: Change) -> None:
    """The object with the snapshot's body; entries in listings are empty objects."""
    bucket, key, endpoint = place.options["bucket_name"], f"snapshots/data/{snapshot_id}", place.options["endpoint_url"]
    async with _session().client("s3", endpoint_url=endpoint, region_name="us-east-1") as client:
        found = await client.get_object(Bucket=bucket, Key=key)
        body = change(await found["Body"].read())
        await client.put_object(Bucket=bucket, Key=key, Body=body, Metadata=found["Metadata"])


@cache
def _session() -> Any:
    """One, since it reads the SDK's models anew for its first client."""
    return aioboto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing-secret")


async def tiered(place: Place, snapshot_id: UUID, change: Change) -> None:
    """The value in Redis and the durable copy."""
    config = read_config(place.options["config"])
    async with redis.asyncio.Redis.from_url(config.tiers.hot.url.get_secret_value()) as client:
        await _redis_strings(client, f"{config.tiers.hot.key_prefix}:*", snapshot_id, change)
    connection = await asyncpg.connect(config.catalog.url.get_secret_value())
    table = "sagaz_tiering.saga_snapshots"
    try:
        value = await connection.fetchval(f"SELECT value FROM {table} WHERE snapshot_id = $1", snapshot_id)
        await connection.execute(f"UPDATE {table} SET value = $2 WHERE snapshot_id = $1", snapshot_id, change(value))
    finally:
        await connection.close()


async def _redis_strings(client: Any, pattern: str, snapshot_id: UUID, change: Change) -> None:
    names = (snapshot_id.hex.encode(), str(snapshot_id).encode())
    keys = [key async for key in client.scan_iter(pattern) if any(name in key for name in names)]
    found = [key for key in keys if await client.type(key) == b"string"]
    assert found
    key = max([(await client.strlen(each), each) for each in found])[1]  # a pointer to the value is shorter
    await client.set(key, change(await client.get(key)), keepttl=True)
