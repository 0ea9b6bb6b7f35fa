"""The contract of a master key, and a data key as it is stored: wrapped.

Beside master keys of several kinds together, and where the configuration names none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from sagaz_tiering.errors import MasterKeyUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A saga's data key, readable only with the master key `master_id`."""

    key_id: UUID
    saga_id: UUID
    wrapped: bytes = field(repr=False)
    master_id: str


class MasterKeys(Protocol):
    """Wraps and unwraps data keys of 32 bytes. Every method raises MasterKeyUnavailable.

    A wrapping is bound to its key id and saga: put into another row it does not open. Nothing is opened or asked
    before the first use, so that a missing master key stops nobody who does not need it.
    """

    async def current_id(self) -> str:
        """Which master key wraps new data keys: `file:NAME` or `kms:ARN`."""

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        """`secret` under the current master key."""

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """The secret of a data key."""

    async def close(self) -> None:
        """Let go of connections; the next use opens them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTotals:
    """Data keys by master key; frames with live snapshots that are encrypted, and those of them without their key."""

    by_master: dict[str, int]
    frames: int
    keyless_frames: int


class KeyTable(Protocol):
    """Where wrapped data keys are kept, as far as a keyring needs it."""

    async def writing(self, saga_ids: Collection[UUID]) -> dict[UUID, WrappedKey]:
        """The keys that these sagas are encrypted with from now on, of those that have one."""

    async def add(self, keys: Sequence[WrappedKey], now: datetime) -> None:
        """Keep new keys, but for sagas that have got one meanwhile."""

    async def by_id(self, key_ids: Collection[UUID]) -> dict[UUID, WrappedKey]:
        """Those of these keys that are there."""

    async def one_of_each_master(self) -> list[WrappedKey]:
        """A key under each master key."""

    async def by_master(self) -> dict[str, int]:
        """How many keys each master key wraps; walks all keys."""

    async def sample(self) -> tuple[KeyTotals, bool]:
        """Of some frames, others each time: how many are encrypted, and have lost their key; whether these are all."""

    async def under_others(self, master_id: str, after: UUID, limit: int) -> list[WrappedKey]:
        """The next keys behind `after` that another master key wraps."""

    async def rewrap(self, changes: Sequence[tuple[WrappedKey, WrappedKey]]) -> int:
        """(as read, new) wrappings; how many were still as read."""


def bound_to(key_id: UUID, saga_id: UUID) -> bytes:
    """What a wrapping is authenticated with."""
    return b"sagaz-tiering data key 1" + key_id.bytes + saga_id.bytes


class Several:
    """`MasterKeys` by scheme, the last one current; where the configuration names none, there is none to ask."""

    def __init__(self, by_scheme: dict[str, MasterKeys]) -> None:
        self.by_scheme = by_scheme

    async def current_id(self) -> str:
        """Of the current one."""
        return await self._asked().current_id()

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        """Under the current one."""
        return await self._asked().wrap(secret, key_id, saga_id)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Under the one that wrapped it."""
        return await self._asked(wrapped).unwrap(wrapped)

    async def close(self) -> None:
        """Close all."""
        for one in self.by_scheme.values():
            await one.close()

    def _asked(self, wrapped: WrappedKey | None = None) -> MasterKeys:
        """The one that opens this (None: the current one)."""
        if not self.by_scheme:
            detail = "" if wrapped is None else f"; it was wrapped by {wrapped.master_id}"
            raise MasterKeyUnavailable(
                f"a data key is needed, but the configuration names no master key{detail}",
                hint="add a section `encryption: {key_file: PATH}` or `encryption: {kms_key_id: ID}`",
            )
        scheme = next(reversed(self.by_scheme)) if wrapped is None else wrapped.master_id.partition(":")[0] + ":"
        if wrapped is not None and scheme not in self.by_scheme:
            raise MasterKeyUnavailable(
                f"the data key of saga {wrapped.saga_id} was wrapped by {wrapped.master_id}, which is not configured",
                hint="name that master key in `encryption` too, until: sagaz-tiering keys rotate",
            )
        return self.by_scheme[scheme]
