"""The stages of the demonstration, in order, each with its check; the first wrong fate ends it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.codec.typed_json import dumps
from sagaz_tiering.demo.check import Recorder, check_fates
from sagaz_tiering.demo.runtime import ATTRIBUTES, POLICIES, demo_runtime
from sagaz_tiering.demo.story import PROJECTED_SNAPSHOTS, Story, survey, unpacked_usd
from sagaz_tiering.errors import MissingDependencyError, SagazTieringError, SnapshotArchived
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import document, plain, show_bytes, show_usd, show_value

FAILED = 6
"""Exit code of a demonstration that lost something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An age that the clock moves to, and what a stranger should know about it."""

    key: str
    age: timedelta
    title: str
    text: str
    shown: tuple[str, ...]
    expires: str | None = None


STAGES = (
    Stage(
        key="day-8",
        age=timedelta(days=8),
        title="8 days later: nobody reads them any more",
        text="The job `age` packs what is older than 7 days into a few large objects of class STANDARD_IA on S3, "
        "verifies them, and only then frees Redis and PostgreSQL. Reads find the snapshots there: one "
        "range request each.",
        shown=("payment-transfer", "order-fulfilment", "health-record-export"),
    ),
    Stage(
        key="day-91",
        age=timedelta(days=91),
        title="91 days later: colder, cheaper",
        text="The job `transition` moved payments to GLACIER (needs a restore before it is read) and orders to "
        "GLACIER_IR (archive price, still readable in milliseconds). Health records wait in STANDARD_IA.",
        shown=("payment-transfer", "order-fulfilment"),
    ),
    Stage(
        key="month-14",
        age=timedelta(days=426),
        title="14 months later: orders are past their 400 days",
        text="Retention is exact: expired orders are invisible from the very instant, before the job `expire` even "
        "runs. It then removes their rows and, after a day of grace, their packs. Health records moved to "
        "DEEP_ARCHIVE.",
        shown=("payment-transfer", "health-record-export"),
        expires="order-fulfilment",
    ),
    Stage(
        key="year-7",
        age=timedelta(days=2557),
        title="7 years later: payments are past their 2555 days",
        text="Payments go the same way. Health records never expire, because nobody wrote down that they should.",
        shown=("health-record-export",),
        expires="payment-transfer",
    ),
)


@dataclass(slots=True, kw_only=True)
class DemoOutcome:
    """What the demonstration found: one entry per stage, and whether every snapshot met its fate."""

    sagas: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    json_bytes: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 only if nothing is missing."""
        return FAILED if self.problems else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ok": not self.problems, **document(self), "seconds": round(self.seconds, 2)}


GRACE = timedelta(hours=25)
"""Past the day that a dead pack waits for readers that are under way."""

MOST_CHANGES = 6
"""Of a difference so many lines are shown."""

Interference = Callable[[str, Runtime], Awaitable[None]]
LookAround = Callable[[Runtime, VirtualClock, Callable[[str], None]], Awaitable[None]]


async def run_demo(
    *,
    sagas: int = 120,
    keep: Path | None = None,
    quiet: bool = False,
    interfere: Interference | None = None,
    look_around: LookAround | None = None,
) -> DemoOutcome:
    """Run it all and report. `interfere` (tests) is called with each stage's key before its check.

    `look_around` is waited for at the end, with the servers up and newer sagas in every tier; it is given what prints
    a line.

    Raises MissingDependencyError without the extras `embedded` and `sagaz`, and whatever stops a server or a job.
    """
    began = time.monotonic()
    try:
        import sagaz.core.saga  # type: ignore[import-untyped]  # noqa: F401  # sagaz ships no types
    except ImportError as exc:
        raise MissingDependencyError("sagaz-tiering[embedded,sagaz]", "the demonstration") from exc
    story, clock = Story(quiet=quiet), VirtualClock(datetime.now(UTC))
    story.heading("sagaz-tiering: saga snapshots where they are cheapest, and still findable")
    story.say(
        "A saga engine saves a snapshot of its state at each step. They are many, read often for a week and "
        "almost never afterwards, and the law keeps them for years. Starting real PostgreSQL, Redis and S3 "
        "servers from wheels, to watch seven years of that …"
    )
    async with demo_runtime(keep, clock) as runtime:
        story.line(f"servers are up after {time.monotonic() - began:.1f} s")
        outcome = await _Demo(runtime, clock, story, interfere).run(sagas)
        outcome.seconds = time.monotonic() - began
        story.heading("done" if not outcome.problems else "FAILED")
        for problem in outcome.problems[:20]:
            story.line(problem)
        story.line(f"{outcome.seconds:.1f} s for {outcome.acknowledged:,} snapshots and seven years.")
        if look_around is not None and not outcome.problems:
            from sagaz_tiering.demo.sagas import run_newer

            story.say("Sagas of the last months join them, so that every tier has some …")
            await run_newer(runtime, clock, sagas, first=sagas)
            await look_around(runtime, clock, story.line)
    if keep is not None:
        story.line(f"look around: sagaz-tiering status --config {keep / 'tiering.yaml'}")
    return outcome


class _Demo:
    def __init__(self, runtime: Runtime, clock: VirtualClock, story: Story, interfere: Interference | None) -> None:
        self._runtime = runtime
        self._clock = clock
        self._story = story
        self._interfere = interfere
        self._storage = runtime.storage()
        self._jobs = runtime.job_context()
        self._outcome = DemoOutcome()
        self._examples: dict[str, list[SagaSnapshot]] = {}

    async def run(self, sagas: int) -> DemoOutcome:
        recorder = await self._day_0(sagas)
        if recorder.refused:
            snapshot_id, reason = recorder.refused[0]
            self._outcome.problems = [f"{len(recorder.refused)} saves failed; the first, {snapshot_id}: {reason}"]
            return self._outcome
        start = self._clock.now()
        for stage in STAGES:
            if self._outcome.problems:
                break
            self._clock.advance(start + stage.age - self._clock.now())
            await self._stage(stage, recorder.acknowledged)
        return self._outcome

    async def _day_0(self, sagas: int) -> Recorder:
        from sagaz_tiering.demo.sagas import run_sagas

        story = self._story
        story.heading("The policies")
        story.say("One YAML file says which snapshots are where, and when. First match wins:")
        story.line(POLICIES)
        story.heading(f"Day 0: {sagas} sagas run on the sagaz engine")
        recorder = Recorder(self._storage)
        began = time.monotonic()
        ended = await run_sagas(sagas, recorder)
        took = time.monotonic() - began
        # Snapshots are stamped with the machine's time; a clock that stood still would call them future.
        self._clock.advance(max(timedelta(0), datetime.now(UTC) - self._clock.now()))
        outcome, snapshots = self._outcome, recorder.acknowledged
        outcome.acknowledged = len(snapshots)
        outcome.sagas = {f"{name} {status}": count for (name, status), count in sorted(ended.items())}
        outcome.json_bytes = sum(len(dumps(snapshot.to_dict())[1]) for snapshot in snapshots)
        for snapshot in snapshots:
            example = self._examples.setdefault(snapshot.saga_name, [])
            if not example or example[0].saga_id == snapshot.saga_id:
                example.append(snapshot)
        for name, count in outcome.sagas.items():
            story.line(f"{count:>4} {name}")
        story.say(
            f"Each step saved a snapshot: {len(snapshots):,} were acknowledged in {took:.1f} s "
            f"({show_bytes(outcome.json_bytes)} as JSON). All are in Redis, which answers every read; payments and "
            "health records also wait in PostgreSQL, so that losing Redis loses none."
        )
        await self._finish_stage("day-0", snapshots, [], ("payment-transfer", "order-fulfilment"))
        return recorder

    async def _stage(self, stage: Stage, snapshots: Sequence[SagaSnapshot]) -> None:
        story = self._story
        story.heading(stage.title)
        story.say(stage.text)
        if stage.expires:
            before = await self._read_rows(stage.expires)
            story.reads(before)
        reports = [await run_job(name, self._jobs) for name in ("age", "transition", "expire", "collect")]
        story.jobs(reports)
        if stage.expires:
            story.say("A day of grace later, for readers that were under way:")
            self._clock.advance(GRACE)
            late = [await run_job(name, self._jobs) for name in ("expire", "collect")]
            story.jobs(late)
            reports += late
        await self._finish_stage(stage.key, snapshots, reports, stage.shown)

    async def _finish_stage(
        self, key: str, snapshots: Sequence[SagaSnapshot], reports: Sequence[Any], shown: Sequence[str]
    ) -> None:
        """Table, a timeline, reads, and the check of every snapshot."""
        if self._interfere is not None:
            await self._interfere(key, self._runtime)
        lines = await survey(self._runtime, self._clock)
        self._story.tiers(lines)
        refs = await self._storage.timeline(self._examples[shown[0]][0].saga_id)
        self._story.timeline(refs, self._clock.now())
        reads = [row for name in shown for row in await self._read_rows(name)]
        self._story.reads(reads)
        await self._find(shown[0], bool(refs))
        if key == "day-0":
            await self._tell_difference(self._examples[shown[0]])
        if key == "day-8":
            self._compare_with_unpacked(len(snapshots))
        await self._tell_archived(shown)
        policies = self._runtime.settings.policies
        tally = await check_fates(snapshots, self._storage, self._runtime.objects, policies, self._clock.now())
        self._story.verdict(tally)
        self._outcome.problems += [str(wrong) for wrong in tally.wrong]
        self._outcome.stages.append(
            {
                "stage": key,
                "at": self._clock.now().isoformat(),
                "tiers": plain(lines),
                "timeline": plain(refs),
                "jobs": plain(reports),
                "reads": [{"saga": s, "read": r, "answer": a, "ms": round(ms, 2)} for s, r, a, ms in reads],
                "check": tally.to_dict(),
            }
        )

    async def _find(self, saga_name: str, there: bool) -> None:
        """The example saga of that name by the number that people know it by, wherever it is by now."""
        name, example = ATTRIBUTES[saga_name], self._examples[saga_name][0]
        began = time.perf_counter()
        found = (await self._storage.find(attributes={name: example.context[name]})).items
        took = (time.perf_counter() - began) * 1000
        tiers = ", ".join(f"{count} {tier}" for saga in found for tier, count in saga.snapshots.items())
        self._story.line(f"find --attribute {name}={example.context[name]}: {tiers or 'nothing'} ({took:.1f} ms)")
        if [saga.saga_id for saga in found] != ([example.saga_id] if there else []):
            self._outcome.problems.append(f"{name} {example.context[name]} finds {len(found)} sagas")

    async def _tell_difference(self, example: Sequence[SagaSnapshot]) -> None:
        """What a saga changed from its first step to its last."""
        first, last = example[0], example[-1]
        found = (await self._storage.diff(first.saga_id, first.snapshot_id, last.snapshot_id)).changes
        self._story.say(f"What changed from {first.step_name} to {last.step_name}, by `sagaz-tiering diff`:")
        for each in found[:MOST_CHANGES]:
            values = [show_value(value, 40) for value in (each.old, each.new) if value is not None]
            self._story.line(f"{each.kind.value:<8}{each.path}  {' → '.join(values)}")
        if len(found) > MOST_CHANGES:
            self._story.line(f"and {len(found) - MOST_CHANGES} more")

    async def _read_rows(self, saga_name: str) -> list[tuple[str, str, str, float]]:
        """The example saga of that name read by id, latest and at a time."""
        example = self._examples[saga_name]
        middle = example[len(example) // 2]
        storage = self._storage
        reads: list[tuple[str, Callable[[], Awaitable[SagaSnapshot | None]]]] = [
            ("by id", lambda: storage.get_snapshot(middle.snapshot_id)),
            ("latest", lambda: storage.get_latest_snapshot(middle.saga_id)),
            ("at a time", lambda: storage.get_snapshot_at_time(middle.saga_id, middle.created_at)),
        ]
        rows = []
        for how, read in reads:
            began = time.perf_counter()
            try:
                found = await read()
                answer = "nothing (expired)" if found is None else f"step {found.step_index} {found.step_name}"
            except SnapshotArchived as exc:
                answer = f"archived in {exc.storage_class}, restore first"
            except SagazTieringError as exc:  # the check that follows names every snapshot it concerns
                answer = f"FAILED: {exc}"
            rows.append((saga_name, how, answer, (time.perf_counter() - began) * 1000))
        return rows

    async def _tell_archived(self, shown: Sequence[str]) -> None:
        """The whole answer of a read that meets archived bytes."""
        for name in shown:
            try:
                await self._storage.get_snapshot(self._examples[name][0].snapshot_id)
            except SnapshotArchived as exc:
                self._story.say("A read of archived bytes is answered at once, with what to do about it:")
                self._story.line(str(exc))
                if exc.hint:
                    self._story.line(f"hint: {exc.hint}")
                return
            except SagazTieringError:
                return  # told by `_read_rows`

    def _compare_with_unpacked(self, count: int) -> None:
        each = self._outcome.json_bytes // count
        cost = unpacked_usd(self._runtime, StorageClass.STANDARD_IA, each)
        self._story.say(
            f"For comparison: {PROJECTED_SNAPSHOTS:,} such snapshots as one JSON object each would cost "
            f"{show_usd(cost)} a month in STANDARD_IA, which bills at least 128 KB per object."
        )
