"""What every object store refuses before it asks anyone: hostile keys, impossible restores, altered data."""

from __future__ import annotations

import hashlib
import re

from sagaz_tiering.errors import CorruptPack, InvalidKey, ObjectStoreError

MAX_KEY_BYTES = 1024
"""S3's limit on a whole key, the store's prefix included, in UTF-8 bytes."""

MOST_READ_BACK = 2**20
"""Of what took the place of a small object that was just written."""

RESTORE_TIERS = ("Expedited", "Standard", "Bulk")

# Control characters, halves of surrogate pairs (no UTF-8 form) and what XML 1.0, the format of S3's answers,
# cannot carry.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def check_key(key: str, *, room: int = MAX_KEY_BYTES) -> str:
    """`key` itself if it may name an object of at most `room` UTF-8 bytes; raises InvalidKey."""
    if not key:
        raise InvalidKey("an object key is empty")
    _check_parts(key, key.split("/"))
    if len(key.encode()) > room:
        raise InvalidKey(f"key {key[:40]!r}… is longer than {room} bytes")
    return key


def check_list_prefix(prefix: str) -> str:
    """`prefix` itself if keys may start with it (its last part may be incomplete); raises InvalidKey."""
    whole, slash, rest = prefix.rpartition("/")
    _check_parts(prefix, whole.split("/") if slash else [])
    if _UNSTORABLE.search(rest):
        raise InvalidKey(f"prefix {prefix!r:.80} holds a character that no key can have")
    return prefix


def check_restore(days: int, tier: str) -> None:
    """Raise ObjectStoreError unless S3 could be asked for this restore."""
    if tier not in RESTORE_TIERS:
        raise ObjectStoreError(f"there is no restore tier {tier!r}", hint=f"use {', '.join(RESTORE_TIERS)}")
    if days < 1:
        raise ObjectStoreError(f"a restore cannot last {days} days", hint="ask for at least one day")


def check_range(offset: int, length: int) -> None:
    """Raise ValueError unless there can be such bytes."""
    if offset < 0 or length < 1:
        raise ValueError(f"no such range: {length} bytes from {offset}")


def check_length(key: str, data: bytes, offset: int, length: int) -> bytes:
    """`data` itself if all of the range came; raises CorruptPack."""
    if len(data) != length:
        raise CorruptPack(f"{key} has {len(data)} of the {length} bytes asked for from {offset}")
    return data


def check_size(key: str, size: int, most: int) -> None:
    """Raise CorruptPack for an object that is larger than what is expected under its key ever is."""
    if size > most:
        raise CorruptPack(f"{key} has more than the {most:,} bytes that it ever should", hint="who wrote it?")


def check_data(key: str, data: bytes | bytearray, sha256: bytes) -> None:
    """Raise ObjectStoreError unless `data` hashes to `sha256`. A millisecond per megabyte: use a thread."""
    if hashlib.sha256(data).digest() != sha256:
        raise ObjectStoreError(
            f"the data for {key} does not have the sha256 that was given for it; nothing was written",
            hint="the data changed in memory after it was hashed; build the object again",
        )


def _check_parts(key: str, parts: list[str]) -> None:
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidKey(f"key {key!r:.80} has an empty, '.' or '..' part")
    if _UNSTORABLE.search(key):
        raise InvalidKey(f"key {key!r:.80} holds a character that no key can have")
