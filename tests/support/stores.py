"""Every storage on real servers, opened the same way: what the contract suite and the transfer tests run over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import sagaz_tiering
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.storage.base import SnapshotStorage

KINDS = ("memory", "filesystem", "redis", "postgresql", "s3", "tiered")


@dataclass(slots=True, kw_only=True)
class Place:
    """Where one test's data is. Every storage that `open` gives works on the same data, with the test's clock.

    `name` and `options` make the storage in another process too: `getattr(sagaz_tiering, name)(**options)`.
    For the tiered one, `options` is `{"config": path}` for `from_config`. Memory is gone with its storage.
    """

    kind: str
    name: str
    options: dict[str, Any]
    clock: VirtualClock
    url: str = ""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self, **changes: Any) -> SnapshotStorage:
        """Another storage over the data, closed with the test; `changes` to its options."""
        return await self._stack.enter_async_context(self.opened(**changes))

    @asynccontextmanager
    async def opened(self, **changes: Any) -> AsyncIterator[SnapshotStorage]:
        """A storage over the data, closed with the block."""
        options = {**self.options, **changes}
        if self.kind == "tiered":
            opening: Any = sagaz_tiering.TieredSnapshotStorage.from_config(options["config"], clock=self.clock)
        else:
            opening = getattr(sagaz_tiering, self.name)(**options, clock=self.clock)
        async with opening as storage:
            yield storage

    async def close(self) -> None:
        """Close what `open` gave."""
        await self._stack.aclose()


MakePlace = Callable[[str], Awaitable[Place]]
