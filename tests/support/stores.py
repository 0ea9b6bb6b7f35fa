"""Every storage on real servers, opened the same way: what the contract suite and the transfer tests run over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import sagaz_tiering
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import SagazTieringError, TierUnavailable
from sagaz_tiering.storage.base import SnapshotStorage
from support.gate import Gate

T = TypeVar("T")

DEADLINE_S = 300
KINDS = ("memory", "filesystem", "redis", "fakeredis", "postgresql", "s3", "tiered")


class Ability(StrEnum):
    """What not every kind of storage has, by design: tests that need it leave the others out."""

    OUTLIVES = "its data outlives it"
    SETTINGS = "how it writes depends on options"
    PLACE = "it is somewhere that can be away"
    SERVER = "it connects to a server"


ABILITIES = {
    "memory": frozenset[Ability](),
    "filesystem": frozenset({Ability.OUTLIVES, Ability.SETTINGS, Ability.PLACE}),
    "redis": frozenset(Ability),
    "fakeredis": frozenset({Ability.SETTINGS}),
    "postgresql": frozenset(Ability) - {Ability.SETTINGS},
    "s3": frozenset(Ability),
    "tiered": frozenset(Ability),
}


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
    settings: Sequence[dict[str, Any]] = ({},)
    """Options to open it with that must not matter to what is stored already."""
    crowd: int = 200
    """Calls at once where many are the point."""
    rounds: int = 4
    """How often to kill a process that saves, and a measure of how much to do in one."""
    connections: int = 0
    """The most that one storage may have open."""
    unavailable: type[SagazTieringError] = TierUnavailable
    """What it raises when its place is away."""
    secrets: Sequence[str] = ()
    """What must never be shown."""
    gates: Sequence[Gate] = ()
    folder: Path | None = None
    harm: Callable[[Place, Any, Callable[[bytes], bytes]], Awaitable[None]] | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _opened: list[SnapshotStorage] = field(default_factory=list)

    async def open(self, **changes: Any) -> SnapshotStorage:
        """Another storage over the data, closed with the test; `changes` to its options."""
        return await self._stack.enter_async_context(self.opened(**changes))

    @asynccontextmanager
    async def opened(self, **changes: Any) -> AsyncIterator[SnapshotStorage]:
        """A storage over the data, closed with the block."""
        options = {**self.options, **changes}
        async with open_storage(self.name, options, self.clock) as storage:
            self._opened.append(storage)
            yield storage

    async def damage(self, snapshot_id: Any, change: Callable[[bytes], bytes]) -> None:
        """Change the stored bytes of a snapshot behind the storages' back."""
        assert self.harm is not None, f"nobody has written how to damage {self.kind}"
        await self.harm(self, snapshot_id, change)

    @property
    def last_opened(self) -> Any:
        """The storage itself, for what can only be reached through it."""
        return self._opened[-1]

    async def cut(self) -> None:
        """Its servers are gone, or a file is where its folder belongs."""
        for gate in self.gates:
            await gate.shut()
        if self.folder is not None:
            if self.folder.exists():
                self.folder.rename(self.folder.with_suffix(".away"))
            self.folder.touch()

    async def mend(self) -> None:
        """Undo `cut`."""
        for gate in self.gates:
            await gate.open()
        if self.folder is not None:
            self.folder.unlink()
            if (away := self.folder.with_suffix(".away")).exists():
                away.rename(self.folder)

    async def close(self) -> None:
        """Close what `open` gave, then the gates."""
        await self._stack.aclose()
        for gate in self.gates:
            await gate.shut()


MakePlace = Callable[..., Awaitable[Place]]


@asynccontextmanager
async def open_storage(name: str, options: dict[str, Any], clock: VirtualClock) -> AsyncIterator[SnapshotStorage]:
    """A storage by its class's name, in any process."""
    if name == "TieredSnapshotStorage":
        opening: Any = sagaz_tiering.TieredSnapshotStorage.from_config(options["config"], clock=clock)
    else:
        opening = getattr(sagaz_tiering, name)(**options, clock=clock)
    async with opening as storage:
        yield storage


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that other tasks or processes do; fail after a while."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.002)


async def in_time(call: Coroutine[Any, Any, T]) -> T:
    """What it returns; a failure if it never ends, also where it does not let itself be cancelled at once."""
    task = asyncio.create_task(call)
    done, _ = await asyncio.wait([task], timeout=DEADLINE_S)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.01)
    assert done, f"not within {DEADLINE_S} s"
    return task.result()
