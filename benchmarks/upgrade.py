"""An upgrade under load: a store made by an earlier commit, an application of it that goes on, our daemon's jobs.

    git worktree add --detach /tmp/old COMMIT
    python benchmarks/upgrade.py --old /tmp/old [--snapshots 100000] [--json FILE]

Embedded servers. The earlier code fills the store and archives part of it; then it saves and reads without pause while
we migrate the catalog, a daemon of it waits, another application of it starts, and our `age` and `expire` run until all
sagas are taken in. Afterwards, and again twenty days later, every snapshot must be there that was saved and has not
expired by the rules of now, with its bytes, and no other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.yaml_config import write_config
from upgrade_app import PER_SAGA, RETAIN, saga, saga_id, snapshot

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.catalog.migrations import current_version, migrate
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.embedded import PostgresServer, RedisServer
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import SagaSnapshot

MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
POLICIES: list[dict[str, Any]] = [
    {"name": "payment", "match": {"saga_name": "payment"}, "move": MOVE, "retain": "30d"},
    {"name": "fast", "match": {"saga_name": "fast"}, "move": MOVE, "retain": "30d", "durability": "hot"},
    {"name": "record", "match": {"saga_name": "record"}, "move": MOVE},
]
DOUBTFUL = timedelta(minutes=30)
"""What ends so near to now may be gone or not when it is asked for."""
WAITED_S = 300.0
LATER = timedelta(days=20)
READ_AT_ONCE = 32
STARTED_AT = time.monotonic()


@dataclass(slots=True)
class Upgrade:
    """One run."""

    old: Path
    folder: Path
    config: Path
    snapshots: int
    now: datetime
    told: dict[str, Any] = field(default_factory=dict)

    def tell(self, **found: Any) -> None:
        """One line of the table, with the seconds since the start."""
        self.told.update(found)
        for name, value in found.items():
            print(f"{time.monotonic() - STARTED_AT:6.0f} s  {name.replace('_', ' '):42} {value}", flush=True)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """A process of the earlier code."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env={**os.environ, "PYTHONPATH": str(self.old)},
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def app(self, what: str, *more: str) -> asyncio.subprocess.Process:
        """`upgrade_app.py` of the earlier code."""
        script, moment = Path(__file__).with_name("upgrade_app.py"), str(int(self.now.timestamp()))
        return await self.start(str(script), what, str(self.config), str(self.snapshots), moment, *more)

    async def ended(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        """What an app says at its end."""
        said = (await process.communicate())[0].decode()
        if process.returncode:
            raise SystemExit(f"the earlier code failed:\n{said}")
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        if not found.pop("code").startswith(str(self.old)):
            raise SystemExit("that was not the earlier code")
        return found

    async def daemon_waits(self) -> None:
        """A daemon of the earlier code says that the schema is newer, and stays."""
        daemon = await self.start("-m", "sagaz_tiering", "run", "--config", str(self.config))
        assert daemon.stdout is not None
        async with asyncio.timeout(WAITED_S):
            while b"this version knows only" not in (line := await daemon.stdout.readline()):
                if not line:
                    raise SystemExit("the earlier daemon ended, or never said that the schema is newer")
        waits = daemon.returncode is None
        daemon.send_signal(signal.SIGTERM)
        await daemon.communicate()
        self.tell(old_daemon_waits=waits)

    async def work(self, runtime: Runtime, when: str = "") -> None:
        """Our daemon's jobs until every saga is taken in."""
        while True:
            for name in ("age", "expire"):
                report = await run_job(name, runtime.job_context())
                self.tell(**{f"{when}{name}_{kind}": count for kind, count in report.counts.items()})
                for note in report.notes:
                    print(f"          {note}")
            left = await runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.sagas_filled WHERE up_to IS NOT NULL")
            if not left:
                return

    async def check(self, runtime: Runtime, logs: Sequence[Path], when: str = "") -> None:
        """All that was saved, against what is read; the sagas of the catalog, against what there is of them."""
        saved: dict[UUID, list[SagaSnapshot]] = defaultdict(list)
        for number in range(self.snapshots // PER_SAGA):
            saved[saga_id(number)] = saga(number, self.now)
        for line in [line for log in logs for line in log.read_text().splitlines()]:
            number, step, created_at = json.loads(line)
            saved[saga_id(number)].append(snapshot(number, step, datetime.fromisoformat(created_at)))
        storage, counts = runtime.storage(), dict.fromkeys(("there", "expired", "doubtful", "lost", "undead"), 0)
        left, now = iter(saved.items()), runtime.clock.now()

        async def some() -> None:
            for one, snapshots in left:
                found = await storage.list_snapshots(one)
                kept_until = snapshots[-1].created_at + RETAIN
                expires = snapshots[0].saga_name != "record"
                if expires and abs(kept_until - now) < DOUBTFUL:
                    counts["doubtful"] += len(snapshots)
                elif expires and kept_until < now:
                    counts["expired"] += len(snapshots)
                    counts["undead"] += len(found)
                else:
                    counts["there"] += len(found)
                    counts["lost"] += len(snapshots) - sum(each in found for each in snapshots)

        await asyncio.gather(*(some() for _ in range(READ_AT_ONCE)))
        query = """SELECT count(*) FROM sagaz_tiering.sagas g
                     FULL JOIN sagaz_tiering.ends_in_tables($1::uuid[]) e USING (saga_id)
                    WHERE (g.ended_at, g.end_step, g.end_id, g.status)
                          IS DISTINCT FROM (e.ended_at, e.end_step, e.end_id, e.status)"""
        wrong = await runtime.db.fetchval(query, list(saved))
        self.tell(**{f"{when}{name}": count for name, count in counts.items()}, **{f"{when}sagas_that_differ": wrong})

    async def applications(self, runtime: Runtime) -> list[Path]:
        """One of the earlier code lives through the migration, one starts after it; what they logged."""
        logs = [self.folder / f"went-on-{share}.jsonl" for share in (0, 1)]
        for log in logs:
            log.touch()
        apps = [await self.app("go-on", str(logs[0]), "0")]
        await grown(logs[0], apps[0])
        before, began = await current_version(runtime.db), time.monotonic()
        await migrate(runtime.db)
        self.tell(schema=f"{before} -> {await current_version(runtime.db)}", migrate_s=_since(began))
        apps.append(await self.app("go-on", str(logs[1]), "1"))
        for log, app in zip(logs, apps, strict=True):
            await grown(log, app)
        await self.daemon_waits()
        began = time.monotonic()
        await self.work(runtime)
        self.tell(jobs_s=_since(began))
        for log, app, name in zip(logs, apps, ("old_application", "old_application_started_later"), strict=True):
            await grown(log, app)
            app.send_signal(signal.SIGTERM)
            self.tell(**{name: await self.ended(app)})
        return logs

    async def run(self) -> bool:
        """All of it; whether nothing is lost, undead, wrong or left."""
        self.tell(filled_by_old_code=await self.ended(await self.app("fill")))
        settings = read_config(self.config)
        async with open_runtime(settings) as runtime:
            logs = await self.applications(runtime)
            await self.work(runtime)
            await self.check(runtime, logs)
            later = VirtualClock(runtime.clock.now() + LATER)
        async with open_runtime(settings, clock=later) as runtime:
            await self.work(runtime, "later_")
            await self.check(runtime, logs, "later_")
        wrong = [name for name in self.told if name.removeprefix("later_") in {"lost", "undead", "sagas_that_differ"}]
        apps = [self.told["old_application"], self.told["old_application_started_later"]]
        return self.told["old_daemon_waits"] and not any(
            [self.told[name] for name in wrong] + [a["wrong"] for a in apps]
        )


async def grown(log: Path, app: asyncio.subprocess.Process) -> None:
    """The application saves on."""
    size = log.stat().st_size
    async with asyncio.timeout(WAITED_S):
        while log.stat().st_size <= size + 2_000:
            if app.returncode is not None:
                raise SystemExit(f"the earlier application ended:\n{(await app.communicate())[0].decode()}")
            await asyncio.sleep(0.1)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


@asynccontextmanager
async def opened(asked: argparse.Namespace) -> AsyncIterator[Upgrade]:
    """Servers and a configuration that both codes understand."""
    with tempfile.TemporaryDirectory(prefix="sagaz-upgrade-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        for each in ("postgres", "redis"):
            (folder / each).mkdir(mode=0o711)
        async with (
            PostgresServer(folder / "postgres", durable=False) as postgres,
            RedisServer(folder / "redis", durable=False) as redis,
        ):
            config = write_config(
                folder / "tiering.yaml",
                database=postgres.url,
                redis_url=redis.url,
                cold=folder / "cold",
                policies=[{**each, "linger": "0s"} for each in POLICIES],
                jobs={"expire_max_share": 1.0},
            )
            moment = datetime.now(UTC).replace(microsecond=0)
            yield Upgrade(Path(asked.old).resolve(), folder, config, asked.snapshots, moment)


async def main(asked: argparse.Namespace) -> int:
    """Run it; 1 where anything is not as it must be."""
    async with opened(asked) as upgrade:
        clean = await upgrade.run()
        if asked.json:
            machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
            found = {"machine": machine, "snapshots": asked.snapshots, "clean": clean, **upgrade.told}
            Path(asked.json).write_text(json.dumps(found, indent=1) + "\n")
        print("clean: nothing lost, nothing expired early" if clean else "NOT CLEAN")
        return 0 if clean else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True, help="a tree of the earlier commit")
    parser.add_argument("--snapshots", type=int, default=100_000)
    parser.add_argument("--json", help="write the figures to this file")
    sys.exit(asyncio.run(main(parser.parse_args())))
