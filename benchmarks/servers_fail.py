"""A server of each kind fails in each way, in front of sagas of three steps and a running daemon: the table of that.

    python benchmarks/servers_fail.py [--write] [--kind Redis [--fault frozen]] [--verbose]

What a saga waits at each step, what PostgreSQL took in place of Redis, what reads, `/readyz`, metrics and logs say
while it lasts, and how long after its end everything is well without a restart. Exits non-zero where a wait is longer
than the configured deadline and the pauses allow, the log is flooded, an acknowledged save does not read back equal,
the daemon ends, or something is not well again. `--write` puts the tables into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from servers_fail_faults import BUCKET, PREFIX, SLOW_S, Servers
from servers_fail_table import written_into
from support.daemon_process import DaemonProcess, daemon
from support.yaml_config import write_config

from sagaz_tiering import SagaSnapshot, TieredSnapshotStorage, metrics
from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.errors import SagazTieringError

KINDS = ("Redis", "PostgreSQL", "S3")
DEADLINES_S = {"Redis": 1.0, "PostgreSQL": 3.0, "S3": 3.0}
"""As configured below: `socket_timeout`, `command_timeout`, `request_timeout`."""
PAUSE_S = 1.0
"""What is given to PostgreSQL after it failed, and what announcing the first save in place of Redis takes."""
SLACK_S = 1.0
"""For a busy machine."""
NOTICED_S = 30.0
"""By then `/readyz` has noticed: a ping comes at most 19 s after the last one, and has 10 s."""
LEAST_S = 8.0
START_S = 120.0
WELL_S = 60.0
"""By then all is well again."""
MOST_LINES = 2
"""Of one event in the application, in a fault: when it begins, and half a minute later."""
MOST_TRIES = 36
"""Each of nine jobs is tried again soon a few times, and tells of each run that it failed;"""
MOST_RUNS = 1.0
"""and then so often in a second, all of them together."""
DOCUMENT = Path(__file__).parent.parent / "docs" / "reliability.md"

_STEPS = ("reserve", "pay", "ship")
_POLICIES = [
    {"name": "durable", "match": {"saga_name": "payment"}},
    {"name": "hot", "match": {"saga_name": "fast"}, "durability": "hot"},
    {"name": "old", "match": {"saga_name": "old"}, "clock": "created_at", "linger": "1s"},
]
_MOVE = {"move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "forever"}
_SHOWN = re.compile(
    r"sagaz_tiering_(server_up|ready|hot_tier_trusted|job_errors_total|save_failures_total|"
    r"read_failures_total|saves_in_place_total|hot_tier_changes_total)(?=[{ ])"
)


@dataclass(kw_only=True)
class Row:
    """What one fault did. Times in seconds."""

    kind: str
    fault: str
    durable: list[float] = field(default_factory=list)
    durable_raised: str = ""
    hot: list[float] = field(default_factory=list)
    hot_raised: str = ""
    longest: float = 0.0
    saved: int = 0
    raised: int = 0
    in_place: int = 0
    reads: dict[str, str] = field(default_factory=dict)
    longest_read: float = 0.0
    lasted: float = 0.0
    not_ready_after: float | None = None
    reason: str = ""
    metrics: list[str] = field(default_factory=list)
    lines: dict[str, dict[str, int]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    well: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Saved:
    """A saga, and which of its snapshots were acknowledged."""

    saga_id: UUID
    acknowledged: list[SagaSnapshot] = field(default_factory=list)
    others: list[SagaSnapshot] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    raised: str = ""


class Lines(logging.Handler):
    """What the application logs, from warnings on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Place:
    """The servers, a daemon, an application's storage, and everything that it saved."""

    def __init__(self, servers: Servers, daemon_: DaemonProcess, storage: TieredSnapshotStorage, lines: Lines) -> None:
        self.servers, self.daemon, self.storage, self.lines = servers, daemon_, storage, lines
        self.sagas: list[Saved] = []
        self._waited: list[float] = []

    async def saga(self, name: str) -> Saved:
        """A saga of three steps; as in the engine, a save that fails does not stop it."""
        saga = Saved(saga_id=uuid4())
        begun = datetime.now(UTC) - timedelta(days=8 if name == "old" else 0)
        for index, step in enumerate(_STEPS):
            snapshot = SagaSnapshot(
                snapshot_id=uuid4(),
                saga_id=saga.saga_id,
                saga_name=name,
                step_name=step,
                step_index=index,
                status="completed" if index == len(_STEPS) - 1 else "executing",
                context={"order": str(saga.saga_id), "items": [{"sku": f"A-{n}", "number": n} for n in range(20)]},
                completed_steps=list(_STEPS[: index + 1]),
                created_at=begun + timedelta(seconds=index),
            )
            began = time.monotonic()
            try:
                await self.storage.save_snapshot(snapshot)
                saga.acknowledged.append(snapshot)
            except SagazTieringError as exc:
                saga.others.append(snapshot)
                saga.raised = type(exc).__name__
            saga.waits.append(time.monotonic() - began)
        self.sagas.append(saga)
        return saga

    async def read(self, saga: Saved) -> tuple[str, float]:
        """What the newest snapshot of a saga is answered with, and after how long."""
        began, right = time.monotonic(), saga.acknowledged[-1]
        try:
            found = await self.storage.get_latest_snapshot(saga.saga_id)
            said = "answered" if found == right else f"WRONG: {found}"
        except SagazTieringError as exc:
            said = type(exc).__name__
        return said, time.monotonic() - began

    async def lost(self) -> list[str]:
        """Acknowledged snapshots that do not read back equal."""
        found: list[str] = []
        for saga in self.sagas:
            there = {each.snapshot_id: each for each in await self.storage.list_snapshots(saga.saga_id)}
            found += [f"{s.saga_name} {s.snapshot_id}" for s in saga.acknowledged if there.get(s.snapshot_id) != s]
            strangers = set(there) - {each.snapshot_id for each in (*saga.acknowledged, *saga.others)}
            found += [f"never saved: {each}" for each in strangers]
        return found

    async def waiting(self) -> int:
        """What PostgreSQL has in place of Redis, and old snapshots that are in no pack."""
        waiting = "SELECT count(*) FROM sagaz_tiering.saga_snapshots WHERE spilled OR saga_name = 'old'"
        return int(str(await self.servers.sql(waiting)))

    async def ready(self) -> tuple[int, str]:
        """Status and first reason."""
        status, text = await self.daemon.get("/readyz")
        told = json.loads(text)
        reasons = told["reasons"] or [each for each in told.get("degraded", []) if each["server"].startswith("job")]
        return status, _anywhere(f"{reasons[0]['server']}: {reasons[0]['error']}") if reasons else ""

    async def figures(self) -> dict[str, float]:
        """The metrics of the daemon and of the application that are worth a look."""
        texts = {"daemon": (await self.daemon.get("/metrics"))[1], "application": metrics.exposition().decode()}
        found: dict[str, float] = {}
        for who, text in texts.items():
            for line in text.splitlines():
                if _SHOWN.match(line) and (who == "daemon" or "_total" in line):
                    name, value = line.rsplit(" ", 1)
                    found[f"{who} {name.removeprefix('sagaz_tiering_')}"] = float(value)
        return found


@asynccontextmanager
async def prepared(folder: Path, kind: str) -> AsyncIterator[Place]:
    """Everything is there, and well; one old saga is in a pack."""
    async with Servers(folder, kind) as servers:
        access, secret = servers.s3.credentials
        cold = {"url": f"s3://{BUCKET}/{PREFIX}", "region": "us-east-1", "endpoint_url": servers.s3_endpoint}
        cold |= {"access_key_id": access, "secret_access_key": secret}
        cold |= {"request_timeout": f"{DEADLINES_S['S3']:g}s", "connect_timeout": "1s"}
        path = write_config(
            folder / "tiering.yaml",
            database=servers.postgres_url,
            redis_url=servers.redis_url,
            cold=cold,
            policies=[{**policy, **_MOVE} for policy in _POLICIES],
            schedule={"age": {"every": "5s", "jitter": "0s"}, "reconcile": {"every": "10s", "jitter": "0s"}},
            daemon={"port": 0, "shutdown_grace": "5s"},
            jobs={"processes": 1},
        )
        whole = json.loads(path.read_text())
        whole["tiers"]["hot"]["socket_timeout"] = f"{DEADLINES_S['Redis']:g}s"
        whole["catalog"]["command_timeout"] = f"{DEADLINES_S['PostgreSQL']:g}s"
        path.write_text(json.dumps(whole))
        async with open_runtime(read_config(path)) as runtime:
            await migrate(runtime.db)
        lines = Lines()
        logging.getLogger("sagaz_tiering").addHandler(lines)
        async with (
            daemon(folder, path, SAGAZ_TIERING_LOG__LEVEL="info") as process,
            TieredSnapshotStorage.from_config(path) as storage,
        ):
            await process.until(lambda: process.notified("READY=1"), deadline_s=START_S)
            place = Place(servers, process, storage, lines)
            for name in ("payment", "fast", "old"):
                await place.saga(name)
            await well_again(place, Row(kind="", fault="start"))
            yield place


async def happened(place: Place, kind: str, fault: str) -> Row:
    """One fault from begin to end, and what was seen."""
    row, early = Row(kind=kind, fault=fault), place.sagas[:3]
    before, daemon_lines = await place.figures(), len(place.daemon.events)
    place.lines.records.clear()
    in_place = _in_place()
    async with place.servers.faults()[fault]():
        began = time.monotonic()
        noticing = asyncio.create_task(_notice(place, row, began))
        durable, hot = await asyncio.gather(place.saga("payment"), place.saga("fast"))
        row.durable, row.durable_raised = durable.waits, durable.raised
        row.hot, row.hot_raised = hot.waits, hot.raised
        sagas = [durable, hot]
        while not noticing.done() or time.monotonic() - began < LEAST_S:
            for name, saga in zip(("durable", "hot", "archived"), early, strict=True):
                row.reads[name], took = await place.read(saga)
                row.longest_read = max(row.longest_read, took)
            sagas += await asyncio.gather(*(place.saga(name) for name in ("payment", "fast", "old")))
            await asyncio.sleep(0.5)
        await noticing
        row.lasted = time.monotonic() - began
        row.metrics = _moved(before, await place.figures())
        row.in_place = int(_in_place() - in_place)
    _tell_lines(row, place.lines.records, place.daemon.events[daemon_lines:])
    row.longest = max(wait for saga in sagas for wait in saga.waits)
    row.saved = sum(len(saga.acknowledged) for saga in sagas)
    row.raised = sum(len(saga.others) for saga in sagas)
    await well_again(place, row)
    lost = await place.lost()
    row.problems += [f"lost or wrong: {each}" for each in lost]
    _judge(row)
    del place.sagas[3:]
    return row


async def _notice(place: Place, row: Row, began: float) -> None:
    """When `/readyz` says so first, and what."""
    while time.monotonic() - began < NOTICED_S:
        status, reason = await place.ready()
        row.reason = reason
        if status != 200:
            row.not_ready_after = time.monotonic() - began
            return
        await asyncio.sleep(0.25)


async def well_again(place: Place, row: Row) -> None:
    """Wait until saves, reads, readiness and what was left behind are as if nothing had happened."""
    began = time.monotonic()

    async def saves() -> bool:
        in_place = _in_place()
        sagas = await asyncio.gather(*(place.saga(name) for name in ("payment", "fast")))
        quick = max(max(saga.waits) for saga in sagas) < PAUSE_S
        return quick and not any(saga.others for saga in sagas) and _in_place() == in_place

    async def reads() -> bool:
        said = [await place.read(saga) for saga in place.sagas[:3]]
        return all(text == "answered" and took < PAUSE_S for text, took in said)

    async def ready() -> bool:
        return (await place.ready())[0] == 200 and (await place.figures())["daemon hot_tier_trusted"] == 1

    async def settled() -> bool:
        return await place.waiting() == 0

    async def until(name: str, is_well: Callable[[], Any]) -> None:
        while not await is_well():
            if time.monotonic() - began > WELL_S:
                row.problems.append(f"{name}: not well after {WELL_S:g} s")
                return
            await asyncio.sleep(0.1)
        row.well[name] = time.monotonic() - began

    await asyncio.gather(*(until(each.__name__, each) for each in (saves, reads, ready)))
    await until("settled", settled)
    if place.daemon.process.returncode is not None:
        row.problems.append(f"the daemon ended with {place.daemon.process.returncode}")
    if row.fault == "start" and row.problems:
        raise AssertionError(row.problems)


def _judge(row: Row) -> None:
    """What is not as it must be."""
    slow = 10 * SLOW_S if row.fault.startswith("slow") else 0.0
    longest = DEADLINES_S[row.kind] + PAUSE_S + SLACK_S + slow
    for what, took in (("save", row.longest), ("read", row.longest_read)):
        if took > longest:
            row.problems.append(f"a {what} took {took:.1f} s")
    for waits in (row.durable, row.hot):
        if sum(waits) > longest + 2 * PAUSE_S:
            row.problems.append(f"a saga waited {sum(waits):.1f} s")
    most = {"application": MOST_LINES, "daemon": MOST_TRIES + MOST_RUNS * row.lasted}
    for who, events in row.lines.items():
        for event, times in events.items():
            if times > most[who]:
                row.problems.append(f"the {who} logged {times} times {event}")
    row.problems += [f"{name} read: {said}" for name, said in row.reads.items() if said.startswith("WRONG")]


def _tell_lines(row: Row, application: list[logging.LogRecord], of_daemon: list[dict[str, Any]]) -> None:
    told = [(str(getattr(each, "event", each.name)), each.getMessage()) for each in application]
    shouted = [each for each in of_daemon if each.get("level") in ("warning", "error", "critical")]
    row.lines["application"] = dict(Counter(event for event, _text in told))
    row.lines["daemon"] = dict(Counter(str(each["event"]) for each in shouted))
    row.texts = [_anywhere(f"application: {text}") for _event, text in told]
    row.texts += [_anywhere(f"daemon: {json.dumps(each)}") for each in shouted]


def _in_place() -> float:
    return float(metrics.REGISTRY.get_sample_value("sagaz_tiering_saves_in_place_total") or 0.0)


def _moved(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """The metrics that are others now: counters by how much, gauges what they are."""
    found = []
    for name, value in sorted(after.items()):
        was = before.get(name, 0.0 if "_total" in name else value)
        if value != was:
            found.append(f"{name} {f'+{value - was:g}' if '_total' in name else f'{value:g}'}")
    return found


def _anywhere(text: str) -> str:
    """Without what is of this run alone."""
    text = re.sub(r"127\.0\.0\.1:\d+", "HOST", re.sub(r"\('127\.0\.0\.1', \d+\)", "HOST", text))
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)


async def of_kind(kind: str, fault: str | None) -> list[Row]:
    """Every fault of a kind of server, or one."""
    with tempfile.TemporaryDirectory(prefix="sagaz-tiering-failing-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with prepared(folder, kind) as place:
            rows = []
            for each in [fault] if fault else list(place.servers.faults()):
                rows.append(await happened(place, kind, each))
                print(f"{kind}, {each}: {'; '.join(rows[-1].problems) or 'as it must be'}", file=sys.stderr, flush=True)
            return rows


async def everything(kinds: tuple[str, ...], fault: str | None) -> list[dict[str, Any]]:
    """The rows of these kinds of servers, each kind in a process of its own, at once."""

    async def one(kind: str) -> list[dict[str, Any]]:
        asked = ["--kind", kind, "--json", *(["--fault", fault] if fault else [])]
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, *asked, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        rows: list[dict[str, Any]] = json.loads(out)
        return rows

    return [row for rows in await asyncio.gather(*(one(kind) for kind in kinds)) for row in rows]


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--fault")
    parser.add_argument("--json", action="store_true", help="the rows as JSON, of one kind")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT.name}")
    parser.add_argument("--verbose", action="store_true", help="print every line of the logs")
    asked = parser.parse_args()
    if asked.json:
        print(json.dumps([asdict(row) for row in asyncio.run(of_kind(asked.kind, asked.fault))]))
        return 0
    rows = asyncio.run(everything((asked.kind,) if asked.kind else KINDS, asked.fault))
    print(written_into(DOCUMENT, rows, write=asked.write))
    if asked.verbose:
        print("\n".join(f"{row['kind']}, {row['fault']}: {text}" for row in rows for text in row["texts"]))
    problems = [f"{row['kind']}, {row['fault']}: {each}" for row in rows for each in row["problems"]]
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
