"""A key file and KMS together: one is current, each opens what it wrapped, so that sagas can move between them."""

from __future__ import annotations

from uuid import UUID

from sagaz_tiering.errors import MasterKeyUnavailable
from sagaz_tiering.keys.master import MasterKeys, WrappedKey


class Several:
    """`MasterKeys` by scheme; `current` is one of them."""

    def __init__(self, current: str, by_scheme: dict[str, MasterKeys]) -> None:
        self._current = by_scheme[current]
        self._by_scheme = by_scheme

    async def current_id(self) -> str:
        """Of the current one."""
        return await self._current.current_id()

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        """Under the current one."""
        return await self._current.wrap(secret, key_id, saga_id)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Under the one that wrapped it."""
        scheme = wrapped.master_id.partition(":")[0] + ":"
        if scheme not in self._by_scheme:
            raise MasterKeyUnavailable(
                f"the data key of saga {wrapped.saga_id} was wrapped by {wrapped.master_id}, which is not configured",
                hint="name that master key in `encryption` too, until: sagaz-tiering keys rotate",
            )
        return await self._by_scheme[scheme].unwrap(wrapped)

    async def close(self) -> None:
        """Close all."""
        for one in self._by_scheme.values():
            await one.close()
