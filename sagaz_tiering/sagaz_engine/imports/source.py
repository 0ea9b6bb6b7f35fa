"""What the sources of sagaz's data share: opening late, and an account of what could not be taken as it is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol, Self, TypeVar

from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.logs import Logger
from sagaz_tiering.sagaz_engine.imports.inventory import Inventory
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotSource

MESSAGES: Final = 20
"""How many messages a tally keeps; the log has them all."""

PAGE: Final = 250
BATCH_BYTES: Final = 2 * 1024 * 1024
BATCH_RECORDS: Final = 256
"""Records are asked for together up to this many, or up to this many bytes (a larger one alone)."""

_log = Logger(__name__)


class Remarked(Protocol):
    """What was read of a record, and what had to be taken differently from how it is written."""

    @property
    def remarks(self) -> Sequence[str]: ...


Stored = TypeVar("Stored")
Decoded = TypeVar("Decoded", bound=Remarked)


@dataclass(slots=True)
class Remarks:
    """How many records, and what was said of the first ones. A record counts once, however often it is read."""

    count: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """One more."""
        self.count += 1
        if len(self.messages) < MESSAGES:
            self.messages.append(message)


class SagazSource(SnapshotSource, ABC):
    """Data of a sagaz storage, read only. `async with`, or `close()` at the end.

    Connects when first used. Raises TierUnavailable or ConfigError where the store cannot be read; what is wrong
    with one record never ends a reading. The account covers what was read so far, and starts anew when the source
    is used again after `close()`:

    - `problems`: records that cannot be read and were left out, each logged as `snapshot.unreadable`;
    - `adjusted`: records that are there, but with a value taken differently from how it is written;
    - `expired`: snapshots left out since their retention has passed.
    """

    kind: ClassVar[str]

    def __init__(self, *, clock: Clock | None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._opening = asyncio.Lock()
        self._inventory: Inventory | None = None
        self._start_account()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release what was opened; the account stays readable, the next call opens anew."""
        inventory, self._inventory = self._inventory, None
        if inventory is not None:
            await inventory.close()
        await self._disconnect()

    async def _connect(self) -> None:
        """Make the client, where it does not connect when it is first used."""

    async def _disconnect(self) -> None:
        """Close the client if there is one."""

    @abstractmethod
    async def _take_stock(self, inventory: Inventory) -> None:
        """What is to be known before anything is read: `expired`, and the order where the store has none."""

    async def _opened(self) -> Inventory:
        """The inventory, with everything ready behind it; callers that come meanwhile wait."""
        async with self._opening:
            if self._inventory is None:
                self._start_account()
                inventory = Inventory()
                await inventory.open()
                try:
                    await self._connect()
                    await self._take_stock(inventory)
                except BaseException:  # also when cancelled: nothing stays open
                    await inventory.close()
                    await self._disconnect()
                    raise
                self._inventory = inventory
            return self._inventory

    def _start_account(self) -> None:
        self.problems = Remarks()
        self.adjusted = Remarks()
        self.expired = 0

    async def _read(
        self, inventory: Inventory, stored: Sequence[tuple[bytes, Stored]], decode: Callable[[Stored], Decoded]
    ) -> list[Decoded]:
        """What can be read of these records, each given with its key; the rest is accounted for."""
        readable = list[Decoded]()
        outcomes = await asyncio.to_thread(lambda: [_outcome(decode, each) for _, each in stored])
        for (key, _), outcome in zip(stored, outcomes, strict=True):
            if isinstance(outcome, CorruptRecord):
                await self._leave_out(inventory, key, outcome)
            else:
                await self._remark(inventory, key, outcome.remarks)
                readable.append(outcome)
        return readable

    async def _leave_out(self, inventory: Inventory, key: bytes, error: object) -> None:
        """Account for a record that cannot be read."""
        if await inventory.note("problem", key):
            shown = _shown(key)
            self.problems.add(f"{shown}: {error}")
            _log.error("snapshot.unreadable", key=shown, storage=self.kind, error=str(error))

    async def _remark(self, inventory: Inventory, key: bytes, remarks: Sequence[str]) -> None:
        """Account for a record that is not taken quite as it is written."""
        if remarks and await inventory.note("adjusted", key):
            message = "; ".join(remarks)
            self.adjusted.add(f"{_shown(key)}: {message}")
            _log.warning("snapshot.adjusted", key=_shown(key), storage=self.kind, reason=message)

    async def _is_live(self, inventory: Inventory, key: bytes, snapshot: SagaSnapshot) -> bool:
        """Whether a snapshot exists now; one that does not is accounted for."""
        if snapshot.retention_until is None or self._clock.now() < snapshot.retention_until:
            return True
        if await inventory.note("expired", key):
            self.expired += 1
        return False


def batches_of(sizes: Sequence[int]) -> list[slice]:
    """Consecutive records grouped so that each group stays within BATCH_RECORDS and BATCH_BYTES."""
    groups, start, total = list[slice](), 0, 0
    for at, size in enumerate(sizes):
        if at > start and (at - start == BATCH_RECORDS or total + size > BATCH_BYTES):
            groups.append(slice(start, at))
            start, total = at, 0
        total += size
    if start < len(sizes):
        groups.append(slice(start, len(sizes)))
    return groups


def _outcome(decode: Callable[[Stored], Decoded], stored: Stored) -> Decoded | CorruptRecord:
    try:
        return decode(stored)
    except CorruptRecord as exc:
        return exc


def _shown(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
