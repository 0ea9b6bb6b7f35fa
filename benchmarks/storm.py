"""Two applications and three daemons in a storm of faults; afterwards every answer and every byte is judged.

    python benchmarks/storm.py [--seconds 600] [--seed 1] [--only WORD ...] [--keep FOLDER]

Daemons and applications are killed with SIGKILL, daemons are stopped past their leases, one has a clock an hour
ahead; PostgreSQL, Redis and S3 are killed, frozen, cut, slowed, emptied, rolled back. Snapshots are saved, saved anew,
deleted, forgotten and saved again all the while. Exits non-zero if an acknowledged snapshot is lost (a `hot` one:
without being told, or without a fault of Redis), doubled, wrong, or not gone when it should be, or if the bucket is not
what the catalog says. Where Redis lost a `hot` save before anybody knew of it, the one before it is right as well.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid5

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import structlog
from storm_faults import Weather, wire_to
from storm_model import POLICIES, Call, Read, Story, kind_of
from support.gate import through
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.embedded import EmbeddedServers
from sagaz_tiering.errors import SagazTieringError, SnapshotLost
from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.operations.verify import verify
from sagaz_tiering.torture.store import ShiftedClock

APPLICATIONS, DAEMONS = 2, 3
LEASE_S = 4
UNNOTED_S = 3.0
"""A `hot` save may be lost without anybody knowing for so long: the second until it is noted, on a busy machine."""
QUIET_S = 8.0
"""Without faults at the beginning and at the end."""
REST_S = 300.0
START_S = 40.0
"""So long a process may take to be at work before it is killed all the same;"""
BLIND = 0.15
"""and such a share of daemons is killed at any moment of their start."""
LIMITS = {
    "lease_ttl": f"{LEASE_S}s",
    "claim_ttl": "6s",
    "batch_sagas": 20,
    "upload_deadline": "20s",
    "retire_grace": "10s",
    "collect_min_age": "20s",
    "expire_max_share": 1.0,
    "processes": 1,
    "nice": 0,
}
AN_HOUR_AHEAD = """
import sys, datetime
import sagaz_tiering.clock as clock
class Ahead(clock.SystemClock):
    def now(self):
        return super().now() + datetime.timedelta(hours=1)
clock.SystemClock = Ahead
from sagaz_tiering.cli import main
sys.argv = ["sagaz-tiering", *sys.argv[1:]]
main()
"""


@dataclass(kw_only=True)
class Storm:
    """One run: what it is made of, and what happened."""

    folder: Path
    config: Path
    seconds: float
    seed: int
    only: Sequence[str]
    weather: Weather
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    killed_at: dict[str, float] = field(default_factory=dict)
    postgresql_away: list[tuple[float, float]] = field(default_factory=list)
    until: float = 0.0
    rest_s: tuple[float, float] = (2.0, 6.0)
    """Between two faults; from the shortest to the longest."""
    kinds: int = 0
    """It goes on until there were faults of so many kinds."""

    async def run(self) -> None:
        """Everybody at once, until the time is over; then nobody is left."""
        self.until = time.monotonic() + self.seconds
        async with asyncio.TaskGroup() as group:
            for number in range(APPLICATIONS):
                group.create_task(self._applications(number))
            for number in range(DAEMONS):
                group.create_task(self._daemons(number))
            group.create_task(self._faults())
            group.create_task(self._say())
            group.create_task(self._go_on())

    async def _go_on(self) -> None:
        """A busy machine gets more time: until a daemon was ready and all kinds were met, ten times as long at most."""
        last = self.until + 9 * self.seconds
        while (now := time.monotonic()) < last:
            if self.counts["daemon starts that became ready"] and len(self.faults) >= self.kinds:
                break
            self.until = max(self.until, now + QUIET_S)
            await asyncio.sleep(self.rest_s[0])

    async def _applications(self, number: int) -> None:
        chance, life = random.Random(f"{self.seed} application {number}"), 0
        while time.monotonic() < self.until:
            name = f"{number}-{life}"
            log, life = self.folder / f"application-{name}.log", life + 1
            process = await self._start(
                f"application-{name}.out",
                str(Path(__file__).parent / "storm_app.py"),
                *(str(self.config), str(log), str(self.seed), name),
            )
            await self._until(log, b"end")
            await self._sleep(chance.uniform(12, 45))
            await self._end(process, signal.SIGKILL, f"application-{name}.out")
            self.killed_at[log.name] = time.monotonic()
            self.counts["applications killed"] += 1

    async def _daemons(self, number: int) -> None:
        chance, life = random.Random(f"{self.seed} daemon {number}"), 0
        while time.monotonic() < self.until:
            name, life = f"daemon-{number}-{life}.out", life + 1
            ahead = number == 0 and life % 2 == 0
            how = ("-c", AN_HOUR_AHEAD) if ahead else ("-m", "sagaz_tiering")
            process = await self._start(name, *how, "run", "--config", str(self.config))
            self.counts["daemon starts"] += 1
            self.counts["daemons with a clock an hour ahead"] += ahead
            if chance.random() > BLIND:
                await self._until(self.folder / name, b"daemon.ready")
            await self._sleep(chance.uniform(1, 16))
            if chance.random() < 0.4 and process.returncode is None:
                process.send_signal(signal.SIGSTOP)
                self.counts["daemons stopped past their leases"] += 1
                await asyncio.sleep(LEASE_S + chance.uniform(1, 4))
                process.send_signal(signal.SIGCONT)
                await self._sleep(chance.uniform(0, 4))
            how_to_end = signal.SIGKILL if chance.random() < 0.8 else signal.SIGTERM
            await self._end(process, how_to_end, name)
            self.counts["daemons killed" if how_to_end == signal.SIGKILL else "daemons ended in order"] += 1
            self.counts["daemon starts that became ready"] += "daemon.ready" in (self.folder / name).read_text()

    async def _start(self, out: str, *arguments: str) -> asyncio.subprocess.Process:
        with (self.folder / out).open("ab") as file:
            return await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=file, stderr=file)

    async def _end(self, process: asyncio.subprocess.Process, how: signal.Signals, out: str) -> None:
        if process.returncode is not None:
            text = (self.folder / out).read_text(errors="replace")[-3000:]
            raise AssertionError(f"a process ended by itself with {process.returncode}:\n{text}")
        process.send_signal(how)
        try:
            async with asyncio.timeout(60):
                await process.wait()
        except TimeoutError:
            self.counts["daemons that did not end within a minute of SIGTERM"] += 1
            process.kill()
            await process.wait()

    async def _faults(self) -> None:
        """Each kind once, in random order, then again; some rest between."""
        chance = random.Random(f"{self.seed} faults")
        kinds = {
            name: fault for name, fault in self.weather.faults().items() if any(word in name for word in self.only)
        }
        order: list[str] = []
        await self._sleep(QUIET_S)
        while (left := self.until - time.monotonic()) > QUIET_S or (left > 0 and len(self.faults) < self.kinds):
            if not order:
                order = list(kinds)
                chance.shuffle(order)
            name = order.pop()
            self.faults[name] += 1
            began = time.monotonic()
            await kinds[name]()
            print(f"{began:10.3f} to {time.monotonic():10.3f}: {name}", flush=True)
            if name.startswith("postgresql"):
                self.postgresql_away.append((began, time.monotonic()))
            await self._sleep(chance.uniform(*self.rest_s))

    async def _until(self, log: Path, word: bytes) -> None:
        """Wait for a process to be at work, as its log says, though not for ever."""
        latest = time.monotonic() + START_S
        while time.monotonic() < min(self.until, latest) and not (log.exists() and word in log.read_bytes()):
            await asyncio.sleep(0.1)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self.until - time.monotonic())))

    async def _say(self) -> None:
        while (left := self.until - time.monotonic()) > 0:
            print(f"{left:4.0f} s left: {sum(self.faults.values())} faults, {dict(self.counts)}", flush=True)
            await asyncio.sleep(min(30.0, left))


class Judgement:
    """Reads everything back, and counts what is not as it must be."""

    def __init__(self, story: Story, runtime: Runtime, clock: ShiftedClock, run: Storm) -> None:
        self._story, self._runtime, self._clock = story, runtime, clock
        self._run, self._redis_lost_at = run, run.weather.redis_lost_at
        self.counts: Counter[str] = Counter()
        self.told: set[UUID] = set()
        self.untold: set[UUID] = set()
        self.examples: list[str] = []

    def during(self) -> None:
        """What the applications were answered while the storm was on."""
        for read in self._story.reads:
            self.counts["reads during the storm"] += 1
            if read.error:
                self.counts["reads that raised"] += 1
                self._error(read)
            else:
                self._note(read)

    async def settle(self) -> None:
        """Every job, until nothing is left to do; what the dead left runs out meanwhile."""
        until = time.monotonic() + REST_S
        while not await self._rests():
            if time.monotonic() > until:
                raise AssertionError(f"the jobs did not come to rest within {REST_S:.0f} s")
            await asyncio.sleep(0.5)

    async def _rests(self) -> bool:
        reports = [await run_job(name, self._runtime.job_context()) for name in JOBS]
        waiting = (await self._runtime.hot.queue.counts(self._runtime.job_context().now_us))["sagas_due"]
        waiting += (await self._runtime.catalog.durable.totals(self._clock.now()))["due"]
        return not waiting and not any(report.skipped for report in reports)

    async def afterwards(self) -> None:
        """Every saga by list, by latest and by id."""
        rows = await self._runtime.db.fetch("SELECT snapshot_id FROM sagaz_tiering.hot_saves WHERE lost_at IS NOT NULL")
        self.told = {row["snapshot_id"] for row in rows}
        for saga_id in self._story.sagas():
            steps = self._story.kept[saga_id]
            for question, step in [("list", None), ("latest", None), *(("get", step) for step in steps)]:
                self.counts["reads afterwards"] += 1
                await self._ask(saga_id, question, step)

    async def _ask(self, saga_id: UUID, question: str, step: int | None) -> None:
        storage, start = self._runtime.storage(), time.monotonic()
        wall = self._clock.now().timestamp()
        read = Read(saga_id, question, start, start, wall, [], step)
        try:
            if question == "list":
                found = await storage.list_snapshots(saga_id)
            elif question == "latest":
                found = [await storage.get_latest_snapshot(saga_id)]
            else:
                found = [await storage.get_snapshot(uuid5(saga_id, str(step)))]
        except SagazTieringError as exc:
            read.error = f"{type(exc).__name__}: {exc}"
            self._error(read, told=isinstance(exc, SnapshotLost), afterwards=True)
            return
        read.answer = [(each.step_index, each.context["version"]) for each in found if each is not None]
        self._note(read)

    def _error(self, read: Read, *, told: bool = False, afterwards: bool = False) -> None:
        """A server that is away may be told during the storm; that something is lost only of `hot`."""
        name = read.error.split(":")[0]
        if (told or name == "SnapshotLost") and kind_of(read.saga_id) == "hot" and self._redis_lost_at:
            self.counts["reads told of a loss (hot)"] += 1
        elif afterwards or not name.endswith("Unavailable"):
            self._count(f"wrong: raised {read.error}", read)

    def _note(self, read: Read) -> None:
        problem, kept = self._story.judge(read)
        if problem and kept is not None and kind_of(read.saga_id) == "hot":
            problem, _ = self._story.judge(read, self._may_be_untold)
            if not problem:
                self.untold.add(uuid5(read.saga_id, str(kept.step)))
        if problem:
            self._count(problem, read)

    def _may_be_untold(self, save: Call) -> bool:
        """The documented limit of `hot`: Redis lost it before its application had noted it in PostgreSQL.

        That takes a second, or until PostgreSQL is back, and is not done where the application is killed first.
        """
        saved, killed_at = save.end, self._run.killed_at.get(f"application-{str(save.version).split('.')[0]}.log", 0.0)
        noted = saved + UNNOTED_S
        for began, ended in self._run.postgresql_away:
            if began <= noted and saved <= ended:
                noted = max(noted, ended + UNNOTED_S)
        until = float("inf") if saved <= killed_at <= noted else noted
        return any(saved - 1.0 <= lost_at <= until for lost_at in self._redis_lost_at)

    def _count(self, problem: str, read: Read) -> None:
        self.counts[problem.split(":")[0]] += 1
        if len(self.examples) < 20:
            self.examples.append(
                f"{read.question} of {kind_of(read.saga_id)} saga {read.saga_id}, "
                f"asked at {read.start:.3f} to {read.end:.3f}: {problem}"
            )

    async def bucket(self) -> None:
        """What the catalog does not know, and what it contradicts."""
        for _ in range(3):
            self._clock.ahead += timedelta(days=2)
            await self.settle()
        said = sum(total.packs for total in await self._runtime.catalog.packs.totals())
        found = [info.key async for info in self._runtime.objects.list("packs/")]
        verdict = await verify(self._runtime.job_context())
        self.counts["orphans"] = max(0, len(found) - said) + verdict.leftovers["strays"] + verdict.leftovers["foreign"]
        self.counts["wrong"] += len(verdict.findings)
        self.examples += [f"verify: {each.what}: {each.item}: {each.detail}" for each in verdict.findings][:10]
        made = await self._runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.packs WHERE state <> 'ABANDONED'")
        self.counts["packs made"] = made


@asynccontextmanager
async def prepared(folder: Path, seconds: float, seed: int, only: Sequence[str]) -> AsyncIterator[tuple[Storm, Path]]:
    """Servers behind wires, an empty catalog, a configuration that leads through the wires, and one that does not."""
    async with EmbeddedServers.start(folder / "servers", bucket="storm") as servers:
        assert servers.postgres is not None
        assert servers.redis is not None
        assert servers.s3 is not None
        pg, red, s3 = [await wire_to(each.port) for each in (servers.postgres, servers.redis, servers.s3)]
        access, secret = servers.s3_credentials
        sections = {
            "policies": POLICIES,
            "jobs": LIMITS,
            "schedule": {name: {"every": "2s", "jitter": "500ms"} for name, job in JOBS.items() if job.scheduled},
            "daemon": {"port": 0, "shutdown_grace": "5s"},
        }
        cold = {"url": "s3://storm/p", "region": "us-east-1", "access_key_id": access, "secret_access_key": secret}
        cold |= {"request_timeout": "5s", "connect_timeout": "2s", "pack": {"target": "128KiB", "max_frame": "64KiB"}}
        direct = write_config(
            folder / "direct.yaml",
            database=servers.postgres_url,
            redis_url=servers.redis_url,
            cold={**cold, "endpoint_url": servers.s3_endpoint},
            **sections,
        )
        config = write_config(
            folder / "storm.yaml",
            database=through(servers.postgres_url, pg.port),
            redis_url=through(servers.redis_url, red.port),
            cold={**cold, "endpoint_url": f"http://127.0.0.1:{s3.port}"},
            **sections,
        )
        async with open_runtime(read_config(direct)) as runtime:
            await migrate(runtime.db)
        weather = Weather(
            postgres=(servers.postgres, pg),
            redis_=(servers.redis, red),
            s3=(servers.s3, s3),
            chance=random.Random(f"{seed} weather"),
            scratch=folder,
        )
        try:
            yield Storm(folder=folder, config=config, seconds=seconds, seed=seed, only=only, weather=weather), direct
        finally:
            for wire in (pg, red, s3):
                await wire.shut()


def verdict_of(storm: Storm, story: Story, judgement: Judgement) -> dict[str, int]:
    """The table, by row."""
    counts = judgement.counts
    return {
        "acknowledged saves": story.saves,
        **dict(sorted(storm.counts.items())),
        "faults": sum(storm.faults.values()),
        "kinds of fault": len(storm.faults),
        "faults in which Redis lost something": len(storm.weather.redis_lost_at),
        **{name: counts[name] for name in ("reads during the storm", "reads that raised", "reads afterwards")},
        "packs made": counts["packs made"],
        "hot snapshots that Redis lost and that were told": len(judgement.told),
        "hot snapshots lost within a moment of their save, before anybody knew": len(judgement.untold),
        **{name: counts[name] for name in ("lost", "doubled", "wrong", "undead", "orphans")},
    }


def is_passed(verdict: dict[str, int]) -> bool:
    """Whether nothing was lost, doubled, wrong, undead or orphaned, and enough happened to say so."""
    clean = not any(verdict[name] for name in ("lost", "doubled", "wrong", "undead", "orphans"))
    if not verdict["faults in which Redis lost something"]:
        clean = clean and not verdict["hot snapshots that Redis lost and that were told"]
    ready = 2 * verdict["daemon starts that became ready"] >= verdict["daemon starts"]
    return clean and ready and verdict["packs made"] >= 20


async def storm(
    seconds: float,
    seed: int,
    folder: Path,
    only: Sequence[str] = ("",),
    rest_s: tuple[float, float] = (2.0, 6.0),
    kinds: int = 0,
) -> tuple[dict[str, int], list[str]]:
    """The whole of it: the table by row, and examples of what was not right."""
    folder.chmod(0o711)
    os.environ["STORM_BEGAN_US"] = str(time.time_ns() // 1000)
    async with prepared(folder, seconds, seed, only) as (run, direct):
        run.rest_s, run.kinds = rest_s, kinds
        await run.run()
        story = Story(sorted(folder.glob("application-*.log")), run.killed_at)
        clock = ShiftedClock()
        async with open_runtime(read_config(direct), clock=clock) as runtime:
            judgement = Judgement(story, runtime, clock, run)
            judgement.during()
            await judgement.settle()
            await judgement.afterwards()
            await judgement.bucket()
        return verdict_of(run, story, judgement), judgement.examples


async def main(seconds: float, seed: int, keep: Path | None, only: Sequence[str]) -> int:
    """Run, print, judge."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as name:
        folder = keep or Path(name)
        folder.mkdir(exist_ok=True)
        verdict, examples = await storm(seconds, seed, folder, only)
    print("\n| | |\n|---|---|")
    print("\n".join(f"| {row} | {number:,} |" for row, number in verdict.items()))
    print("\n".join(["", *examples]))
    return 0 if is_passed(verdict) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="leave logs and data in this folder")
    parser.add_argument("--only", nargs="+", default=[""], help="only faults with one of these words in their name")
    asked = parser.parse_args()
    sys.exit(asyncio.run(main(asked.seconds, asked.seed, asked.keep, asked.only)))
