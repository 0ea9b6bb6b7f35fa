"""What is saved under torture, and what must be there afterwards.

Every save follows from the seed, the life (one process from its start to its kill), the worker and the turn, so that
the survivor can tell what a killed process had saved from its acknowledgements alone. A worker saves one saga after
the other, each in four turns: three steps, then the middle one once more with other contents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from sagaz_tiering.snapshot import SagaSnapshot

TURNS: Final = 4
STEPS: Final = ("reserve", "pay", "ship", "pay")
RESAVED: Final = 1
"""The step that the last turn saves again."""
_NAMES: Final = UUID("7a6a6a7a-0000-4000-8000-000000000001")
_TEXT: Final = ("", "ñandú", "日本語", "a\x00b", "\ud800", "🜁" * 3, "x" * 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of saga: how long ago its snapshots were taken, and what its policy does with them."""

    name: str
    age: timedelta
    policy: dict[str, Any]
    retain: timedelta | None = None
    archives: bool = False


_COLD: Final = {"to": "STANDARD_IA", "after": "7d"}
_FROZEN: Final = {"to": "GLACIER", "after": "90d"}

KINDS: Final = (
    Kind(name="young", age=timedelta(0), policy={"move": [_COLD]}),
    Kind(name="quick", age=timedelta(0), policy={"move": [_COLD], "durability": "hot"}),
    Kind(name="cold", age=timedelta(days=30), policy={"move": [_COLD]}),
    Kind(name="cold-quick", age=timedelta(days=30), policy={"move": [_COLD], "durability": "hot"}),
    Kind(name="frozen", age=timedelta(days=200), policy={"move": [_COLD, _FROZEN]}, archives=True),
    Kind(name="brief", age=timedelta(days=30), policy={"move": [_COLD], "retain": "30d"}, retain=timedelta(days=30)),
)


def policies() -> list[dict[str, Any]]:
    """The policies of all kinds; packs are small and sealed at once, so that much happens in little time."""
    common = {"linger": "0s", "even_if_costlier": True}
    return [{"name": kind.name, "match": {"saga_name": kind.name}, **common, **kind.policy} for kind in KINDS]


class Worker(NamedTuple):
    """One of the workers of one life."""

    life: int
    number: int


class SagaKey(NamedTuple):
    """The saga that a worker saves in turns `TURNS * number` and on."""

    worker: Worker
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What all processes of a run agree on. `span`: brief sagas end within it."""

    seed: int
    begun: datetime
    span: timedelta

    def saga_id(self, saga: SagaKey) -> UUID:
        """Its id."""
        return uuid5(_NAMES, f"{self.seed} {saga.worker.life} {saga.worker.number} {saga.number}")

    def kind(self, saga: SagaKey) -> Kind:
        """Of which kind it is."""
        return self._chance(saga).choice(KINDS)

    def snapshot(self, worker: Worker, turn: int) -> SagaSnapshot:
        """What a worker saves in a turn."""
        saga, step = SagaKey(worker, turn // TURNS), turn % TURNS
        index = RESAVED if step == TURNS - 1 else step
        saga_id, chance = self.saga_id(saga), self._chance(saga)
        kind = chance.choice(KINDS)
        begun = self.begun - kind.age + chance.random() * self.span
        return SagaSnapshot(
            snapshot_id=uuid5(saga_id, str(index)),
            saga_id=saga_id,
            saga_name=kind.name,
            step_name=STEPS[index],
            step_index=index,
            status="executing",
            context=_context(Random(f"{saga_id} {turn}"), turn),
            completed_steps=list(STEPS[:index]),
            created_at=begun + timedelta(milliseconds=index),
        )

    def ends(self, saga: SagaKey, snapshot: SagaSnapshot) -> datetime | None:
        """When a snapshot is past its retention."""
        retain = self.kind(saga).retain
        return None if retain is None else snapshot.created_at + retain

    def _chance(self, saga: SagaKey) -> Random:
        return Random(f"{self.seed} {saga.worker.life} {saga.worker.number} {saga.number}")


def _context(chance: Random, turn: int) -> dict[str, Any]:
    """Every type that a context may hold, some kilobytes."""
    return {
        "turn": turn,
        "text": [chance.choice(_TEXT) for _ in range(chance.randint(1, 12))],
        "ids": [UUID(int=chance.getrandbits(128)) for _ in range(chance.randint(0, 20))],
        "amount": Decimal(chance.randint(-(10**9), 10**9)) / 100,
        "large": chance.getrandbits(200),
        "ratio": chance.uniform(-1e9, 1e9),
        "due": date.fromordinal(chance.randint(1, 3_000_000)),
        "raw": chance.randbytes(chance.randint(0, 3_000)),
        "set": {chance.randint(0, 99) for _ in range(5)},
        "pair": (None, chance.random() < 0.5),
    }


@dataclass(slots=True, kw_only=True)
class Model:
    """What was acknowledged and what was removed; says what a saga may look like at an instant."""

    script: Scenario
    acknowledged: dict[Worker, int] = field(default_factory=dict)
    """The last acknowledged turn of each worker."""
    running: set[int] = field(default_factory=set)
    """Lives that may have saved more than we know of."""
    removed: set[UUID] = field(default_factory=set)
    removing: set[SagaKey] = field(default_factory=set)
    changes: Counter[SagaKey] = field(default_factory=Counter)
    """Grows with every removal that begins in a saga: what was read across one, or while one is on, says nothing."""

    def sagas(self) -> Iterator[SagaKey]:
        """Every saga that something was acknowledged of, or may be there of."""
        for worker, last in self.acknowledged.items():
            for number in range((last + 1) // TURNS + 1):
                yield SagaKey(worker, number)

    @property
    def saves(self) -> int:
        """How many were acknowledged."""
        return sum(last + 1 for last in self.acknowledged.values())

    def ids(self, saga: SagaKey) -> list[UUID]:
        """Of the snapshots of a complete saga, in order."""
        return list(dict.fromkeys(snapshot.snapshot_id for _, snapshot in _versions(self.script, saga)))

    def is_complete(self, saga: SagaKey) -> bool:
        """Whether nothing of it is under way."""
        return self.acknowledged.get(saga.worker, -1) >= TURNS * saga.number + TURNS - 1

    def allowed(self, saga: SagaKey, now: datetime) -> dict[UUID, list[SagaSnapshot | None]]:
        """For each id of the saga, what a read may give at `now` (None: nothing)."""
        versions = _versions(self.script, saga)
        last = self.acknowledged.get(saga.worker, -1)
        # A killed process has at most one save per worker under way; one that runs may be far ahead of its report.
        most = last + 1 if saga.worker.life not in self.running else TURNS * saga.number + TURNS
        found: dict[UUID, list[SagaSnapshot | None]] = {}
        for turn, snapshot in versions:
            ends = self.script.ends(saga, snapshot)
            if snapshot.snapshot_id in self.removed or (ends is not None and now >= ends):
                found[snapshot.snapshot_id] = [None]
            elif turn <= last:
                found[snapshot.snapshot_id] = [snapshot]
            elif turn <= most:
                found.setdefault(snapshot.snapshot_id, [None]).append(snapshot)
            else:
                found.setdefault(snapshot.snapshot_id, [None])
        return found


@lru_cache(maxsize=256)
def _versions(script: Scenario, saga: SagaKey) -> tuple[tuple[int, SagaSnapshot], ...]:
    turns: Iterable[int] = range(TURNS * saga.number, TURNS * saga.number + TURNS)
    return tuple((turn, script.snapshot(saga.worker, turn)) for turn in turns)
