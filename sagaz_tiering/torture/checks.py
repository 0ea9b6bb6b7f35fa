"""The comparison of model and store: by timeline, by id, and of the bucket with the catalog."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from random import Random
from uuid import UUID

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.clock import Clock
from sagaz_tiering.codec.typed_json import dumps
from sagaz_tiering.errors import SagazTieringError, SnapshotArchived
from sagaz_tiering.operations.verify import verify
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef
from sagaz_tiering.torture.model import Model, SagaKey

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
