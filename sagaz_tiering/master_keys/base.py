"""The contract of a master key, and a data key as it is stored: wrapped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn, Protocol
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
        ...

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        """`secret` under the current master key."""
        ...

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """The secret of a data key."""
        ...

    async def close(self) -> None:
        """Let go of connections; the next use opens them again."""
        ...


class NoMasterKeys:
    """Where the configuration names none."""

    async def current_id(self) -> str:
        self._refuse()

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        self._refuse()

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        self._refuse(f"; it was wrapped by {wrapped.master_id}")

    async def close(self) -> None:
        """Nothing is open."""

    def _refuse(self, detail: str = "") -> NoReturn:
        raise MasterKeyUnavailable(
            f"a data key is needed, but the configuration names no master key{detail}",
            hint="add a section `encryption: {key_file: PATH}` or `encryption: {kms_key_id: ID}`",
        )


def bound_to(key_id: UUID, saga_id: UUID) -> bytes:
    """What a wrapping is authenticated with."""
    return b"sagaz-tiering data key 1" + key_id.bytes + saga_id.bytes
