"""What is saved under torture, what must be there afterwards, and the comparison with what is.

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

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.clock import Clock
from sagaz_tiering.codec.typed_json import dumps
from sagaz_tiering.errors import SagazTieringError, SnapshotArchived
from sagaz_tiering.operations.verify import verify
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef

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


_SLACK = timedelta(seconds=1)
"""Of what ends so close to a read nothing is said, while the clocks run."""


class Difference(Exception):
    """The first thing that is not as the model says."""


class ModelComparison:
    """Looks at sagas of a running or a settled store; raises Difference."""

    def __init__(self, model: Model, runtime: Runtime, clock: Clock, chance: Random) -> None:
        self._model = model
        self._storage = runtime.storage()
        self._runtime = runtime
        self._clock = clock
        self._chance = chance
        self.counts: Counter[str] = Counter()

    async def look(self, saga: SagaKey, *, whole: bool = False, thawed: bool = False) -> None:
        """The timeline, and one snapshot (`whole`: each). `thawed`: nothing may be archived any more."""
        before, began = self._model.changes[saga], self._clock.now()
        saga_id = self._model.script.saga_id(saga)
        early = self._model.allowed(saga, began - _SLACK)
        refs = await self._storage.timeline(saga_id)
        wanted = list(early) if whole else [self._chance.choice(list(early))]
        found = {snapshot_id: await self._get(saga, snapshot_id, thawed=thawed) for snapshot_id in wanted}
        late = self._model.allowed(saga, self._clock.now() + _SLACK)
        if saga in self._model.removing or self._model.changes[saga] != before:
            return
        allowed = {each: [*early[each], *(v for v in late[each] if v not in early[each])] for each in early}
        self._compare_timeline(saga, refs, allowed)
        for snapshot_id, snapshot in found.items():
            self.counts["reads"] += 1
            if snapshot is not ARCHIVED and not any(_same(snapshot, version) for version in allowed[snapshot_id]):
                there = "nothing" if snapshot is None else f"turn {snapshot.context.get('turn')}"
                raise Difference(
                    f"{self._named(saga, snapshot_id)}: {there} is read, but {_told(allowed[snapshot_id])}"
                )

    async def _get(self, saga: SagaKey, snapshot_id: UUID, *, thawed: bool) -> SagaSnapshot | None:
        try:
            return await self._storage.get_snapshot(snapshot_id)
        except SnapshotArchived:
            if thawed or not self._model.script.kind(saga).archives:
                raise Difference(f"{self._named(saga, snapshot_id)}: archived, which it should not be") from None
            self.counts["archived_reads"] += 1
            return ARCHIVED
        except SagazTieringError as exc:
            raise Difference(f"{self._named(saga, snapshot_id)}: {type(exc).__name__}: {exc}") from exc

    def _compare_timeline(
        self, saga: SagaKey, refs: list[SnapshotRef], allowed: dict[UUID, list[SagaSnapshot | None]]
    ) -> None:
        times = Counter(ref.snapshot_id for ref in refs)
        for snapshot_id, count in times.items():
            if count > 1:
                raise Difference(f"{self._named(saga, snapshot_id)}: {count} times in the timeline")
            if not any(version is not None for version in allowed.get(snapshot_id, ())):
                raise Difference(
                    f"{self._named(saga, snapshot_id)}: in the timeline, but expired, removed or never saved"
                )
        for snapshot_id, versions in allowed.items():
            if None not in versions and snapshot_id not in times:
                raise Difference(f"{self._named(saga, snapshot_id)}: acknowledged, but not in the timeline")
        order = [(ref.created_at, ref.step_index) for ref in refs]
        if order != sorted(order):
            raise Difference(f"saga {self._model.script.saga_id(saga)}: the timeline is not in order")

    async def everything(self, *, thawed: bool = False) -> None:
        """Every saga, every snapshot."""
        for saga in self._model.sagas():
            await self.look(saga, whole=True, thawed=thawed)
            self.counts["sagas_compared"] += 1

    async def bucket(self) -> None:
        """It holds exactly what the catalog says, and the catalog does not contradict itself."""
        rows = await self._runtime.catalog.packs.totals()
        said = sum(total.packs for total in rows)
        objects = [info.key async for info in self._runtime.objects.list("packs/")]
        if len(objects) != said:
            raise Difference(f"the bucket holds {len(objects)} packs, the catalog says {said}")
        verdict = await verify(self._runtime.job_context())
        for each in verdict.findings:
            raise Difference(f"catalog verify: {each.what}: {each.item}: {each.detail}")
        if verdict.leftovers["strays"] or verdict.leftovers["foreign"]:
            raise Difference(f"objects that no pack names were not collected: {dict(verdict.leftovers)}")
        self.counts["packs"] = len(objects)

    def _named(self, saga: SagaKey, snapshot_id: UUID) -> str:
        kind = self._model.script.kind(saga).name
        return f"snapshot {snapshot_id} (kind {kind}, life {saga.worker.life}, worker {saga.worker.number})"


def _same(found: SagaSnapshot | None, version: SagaSnapshot | None) -> bool:
    """Equal, and with equal types all the way down."""
    if found is None or version is None:
        return found is version
    return found == version and dumps(found.context) == dumps(version.context)


def _told(allowed: list[SagaSnapshot | None]) -> str:
    turns = ["nothing" if version is None else f"turn {version.context['turn']}" for version in allowed]
    return f"{' or '.join(turns)} was acknowledged or may be there"


ARCHIVED = SagaSnapshot.__new__(SagaSnapshot)
"""Stands for an answer that is a promise."""
