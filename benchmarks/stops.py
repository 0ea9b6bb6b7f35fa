"""How long does a daemon take to end after SIGTERM, under load, at any moment of its life?

    python benchmarks/stops.py [--stops 50] [--seed 1] [--write]

An application saves, reads and forgets all the while, jobs run as often as they can, one worker process beside the
daemon, archived snapshots are asked back, and every answer of S3 comes late. SIGTERM falls before the daemon listens,
while it opens, while its own servers start and its catalog is migrated, at work, in an upload and in a restore.
Exits non-zero if a daemon did not end in order within its grace, or if a process that it had started outlived it.
`--write` puts the result into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil
from storm_model import kind_of, snapshot
from support.gate import HOST, Gate
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.embedded import EmbeddedServers
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import JOBS

GRACE_S, CLOSING_S = 5, 30
"""`daemon.shutdown_grace` here, and what the daemon may take beyond it to close what is open."""
LATE_S = (0.05, 0.5)
"""So late comes each piece of an answer of S3."""
WORK, UPLOAD, RESTORE = "at work", "in an upload", "in a restore"
OPEN, OWN = "while it opens", "while its servers start and its catalog is migrated"
BEFORE = "before it listens for signals"
MOMENTS, OPENING = (WORK, UPLOAD, RESTORE, OPEN, OWN, BEFORE), (OPEN, OWN)
LONGEST_S = {WORK: 6.0, OPEN: 1.0, OWN: 6.0}
"""So long after the event that begins the moment SIGTERM comes, at most."""
BUSY = ("age", "restore", "expire")
READY_S, SEEN_S, GONE_S = 120.0, 60.0, 5.0
ARCHIVED = {
    "name": "archived",
    "match": {"saga_name": "hot-*"},
    "move": [{"to": "GLACIER", "after": "1s"}],
    "linger": "1s",
}
OTHERS = {"name": "others", "match": {}, "move": [{"to": "STANDARD_IA", "after": "1s"}], "linger": "1s"}
BEGIN, END = "<!-- stops -->", "<!-- end of stops -->"
DOCUMENT = Path(__file__).parent.parent / "docs" / "reliability.md"
MARK = "STARTED_BY_STOPS"

_SCHEDULED = [name for name, job in JOBS.items() if job.scheduled]


class LateStore(Gate):
    """In front of S3: answers come late, and it can be told when one kind of request is under way."""

    def __init__(self, host: str, port: int, chance: random.Random) -> None:
        super().__init__(host, port)
        self._chance = chance
        self._waiting: list[tuple[bytes, bytes, asyncio.Event]] = []

    async def until_asked(self, method: bytes, part: bytes) -> bool:
        """The next request of that method with that in its target; False if none comes for a while."""
        seen = asyncio.Event()
        self._waiting.append((method + b" ", part, seen))
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                await seen.wait()
        self._waiting.pop()
        return seen.is_set()

    async def _questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            for method, part, seen in self._waiting:
                if data.startswith(method) and part in data.split(b"\r\n", 1)[0]:
                    seen.set()
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(self._chance.uniform(*LATE_S))
            writer.write(data)
            await writer.drain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One daemon's end. `left`: processes that it had started and that were there after it."""

    moment: str
    took_s: float
    code: int | None
    left: tuple[str, ...]

    @property
    def good(self) -> bool:
        """In order and within the grace; before the daemon listens for signals, SIGTERM itself ends it."""
        in_order = self.code == 0 or (self.code == -signal.SIGTERM and self.moment == BEFORE)
        return in_order and self.took_s < GRACE_S + CLOSING_S and not self.left


@dataclass(slots=True, kw_only=True)
class Bench:
    """The servers, and who works on them."""

    folder: Path
    config: Path
    store: LateStore
    runtime: Runtime
    chance: random.Random
    asked_back: int = 0

    async def stop(self, number: int, moment: str) -> Stop:
        """Start a daemon, stop it at that moment, and see what is left."""
        config, out = self.config, self.folder / f"daemon-{number}.out"
        if moment == OWN:
            config = _own_servers(self.folder / f"own-{number}")
        mark = f"{os.getpid()}-{number}"
        with out.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sagaz_tiering", "run", "--config", str(config)),
                env=os.environ | {MARK: mark},
                stdout=file,
                stderr=file,
            )
        moment = await self._reach(moment, out)
        started = _descendants(process.pid)
        began = time.monotonic()
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
        took_s = time.monotonic() - began
        return Stop(moment=moment, took_s=took_s, code=code, left=await _left(started, mark))

    async def _reach(self, moment: str, out: Path) -> str:
        """Wait for it; which one it is, if it does not come."""
        if moment == BEFORE:
            await asyncio.sleep(self.chance.uniform(0, 0.4))
            return moment
        await _until(out, b"daemon.started" if moment in OPENING else b"daemon.ready")
        asked = True
        if moment == UPLOAD:
            asked = await self.store.until_asked(b"PUT", b"/packs/")
        if moment == RESTORE:
            asked = await self.store.until_asked(b"POST", b"restore")
        await asyncio.sleep(self.chance.uniform(0, LONGEST_S.get(moment, 0.3)))
        return moment if asked else WORK

    async def archive_and_ask_back(self) -> None:
        """Save what is archived soon, and ask for what is archived, for ever."""
        storage, saved = self.runtime.storage(), deque[UUID]()
        while True:
            with suppress(SagazTieringError, TimeoutError):
                async with asyncio.timeout(30):
                    saga_id = next(made for made in iter(uuid4, None) if kind_of(made) == "hot")
                    await storage.save_snapshot(snapshot(saga_id, 0, "1", _hour_ago_us()))
                    saved.append(saga_id)
                    # None until it is in a pack; then the next one.
                    if await storage.restore(saved[0], tier="Expedited", days=1) is not None:
                        saved.popleft()
                        self.asked_back += 1
            await asyncio.sleep(0.2)


def _own_servers(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o711)
    return write_config(
        folder / "tiering.yaml",
        database="embedded",
        redis_url="embedded",
        cold={"url": "s3://stops/bench", "endpoint_url": "embedded", "region": "us-east-1"},
        policies=[OTHERS],
        embedded={"data_dir": f"{folder}/data"},
        **_sections(),
    )


def _sections() -> dict[str, Any]:
    return {
        "schedule": {job: {"every": "1s" if job in BUSY else "10s", "jitter": "0s"} for job in _SCHEDULED},
        "jobs": {"processes": 1, "batch_sagas": 50, "nice": 0},
        "daemon": {"port": 0, "shutdown_grace": f"{GRACE_S}s"},
    }


def _hour_ago_us() -> int:
    return time.time_ns() // 1000 - 3_600_000_000


async def _until(out: Path, event: bytes) -> None:
    """It has logged that, or has waited long enough."""
    until = time.monotonic() + READY_S
    while event not in out.read_bytes() and time.monotonic() < until:
        await asyncio.sleep(0.02)


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def _marked(mark: str) -> Iterator[psutil.Process]:
    """Whoever inherited the daemon's environment, wherever it hangs now."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                yield process


async def _left(started: list[psutil.Process], mark: str) -> tuple[str, ...]:
    """Those of a daemon's processes that are there yet after a moment; they are ended."""
    until = time.monotonic() + GONE_S
    while True:
        there = {*started, *_marked(mark)}
        alive = [process for process in there if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        if not alive or time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    named = []
    for process in alive:
        with suppress(psutil.Error):
            named.append(" ".join(process.cmdline()[:4]))
            process.kill()
    return tuple(named)


@asynccontextmanager
async def _bench(folder: Path, seed: int) -> AsyncIterator[Bench]:
    chance = random.Random(seed)
    async with EmbeddedServers.start(folder / "servers", durable=False, bucket="stops") as servers:
        at = urlsplit(servers.s3_endpoint)
        async with LateStore(str(at.hostname), int(at.port or 0), chance) as store:
            access, secret = servers.s3_credentials
            config = write_config(
                folder / "tiering.yaml",
                database=servers.postgres_url,
                redis_url=servers.redis_url,
                cold={
                    "url": "s3://stops/bench",
                    "endpoint_url": f"http://{HOST}:{store.port}",
                    "region": "us-east-1",
                    "pack": {"target": "128KiB", "max_frame": "64KiB"},
                    "access_key_id": access,
                    "secret_access_key": secret,
                },
                policies=[ARCHIVED, OTHERS],
                **_sections(),
            )
            async with open_runtime(read_config(config)) as runtime:
                await migrate(runtime.db)
                yield Bench(folder=folder, config=config, store=store, runtime=runtime, chance=chance)


@contextmanager
def _application(folder: Path, config: Path, seed: int) -> Iterator[None]:
    with (folder / "application.out").open("wb") as out:
        program = [sys.executable, str(Path(__file__).parent / "storm_app.py"), str(config)]
        process = subprocess.Popen(
            [*program, str(folder / "application.log"), str(seed), "stops"],
            env=os.environ | {"STORM_BEGAN_US": str(time.time_ns() // 1000)},
            stdout=out,
            stderr=out,
        )
    try:
        yield
        assert process.poll() is None, (folder / "application.out").read_text()
    finally:
        process.kill()
        process.wait()


def _table(stops: list[Stop]) -> str:
    """Markdown: a row for each moment."""
    rows = ["| SIGTERM | stops | median | longest | exit codes | left behind |", "|---|---|---|---|---|---|"]
    for moment in (*MOMENTS, "all"):
        some = [stop for stop in stops if moment in (stop.moment, "all")]
        if some:
            took, codes = [stop.took_s for stop in some], sorted({str(stop.code) for stop in some})
            left = sum(len(stop.left) for stop in some)
            numbers = f"{len(some)} | {median(took):.1f} s | {max(took):.1f} s | {', '.join(codes)} | {left}"
            rows.append(f"| {moment} | {numbers} |")
    return "\n".join(rows)


def _write(table: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text(f"{before}\n{table}\n{after}", encoding="utf-8")


async def main(stops: int, seed: int, *, write: bool) -> int:
    """Start and stop; the exit code."""
    done: list[Stop] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with _bench(folder, seed) as bench:
            archiving = asyncio.create_task(bench.archive_and_ask_back())
            with _application(folder, bench.config, seed):
                for number in range(stops):
                    done.append(last := await bench.stop(number, MOMENTS[number % len(MOMENTS)]))
                    print(f"{number + 1}: {last.moment}: {last.took_s:.2f} s, code {last.code} {last.left}", flush=True)
                    if not last.good:
                        print((folder / f"daemon-{number}.out").read_text()[-4000:], flush=True)
            archiving.cancel()
            print(f"{bench.asked_back} restores were asked for")
    print(_table(done))
    if write:
        _write(_table(done))
    return 0 if all(stop.good for stop in done) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the result into docs/reliability.md")
    asked = parser.parse_args()
    sys.exit(asyncio.run(main(asked.stops, asked.seed, write=asked.write)))
