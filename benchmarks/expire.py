"""How fast `expire` removes snapshots: archived in dead packs, archived beside live ones, hot only, durable.

    python benchmarks/expire.py [--snapshots 100000] [--only hot] [--profile] [--json FILE]

Embedded servers with `fsync`; the mass-delete breaker counts first, as by default, and is told to allow 99 %. Prints
snapshots a second, and for the archived ones the requests to the object store.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import platform
import pstats
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from catalogs import Wanted, fill, ids
from support.payload import saga
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.clock import SystemClock, VirtualClock, to_micros
from sagaz_tiering.codec.value import encode, read_meta, to_value
from sagaz_tiering.jobs import JobReport, run_job
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

MUST_REACH = 20_000
"""Archived snapshots a second."""
LIVE_SHARE = 0.05
"""So much more, archived, lives on: a run that would leave next to nothing is refused."""
RETAIN = timedelta(days=30)
MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
POLICIES: list[dict[str, Any]] = [
    *({"name": f"shop-{n}", "match": {"saga_name": f"shop-{n}-*"}, "move": MOVE, "retain": "30d"} for n in range(5)),
    {"name": "rest", "match": {}, "durability": "hot", "retain": "30d"},
]


@asynccontextmanager
async def opened() -> AsyncIterator[Runtime]:
    """A runtime on empty embedded servers, with a clock that the works move."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o711)
        settings = write_config(
            folder / "tiering.yaml",
            database="embedded",
            redis_url="embedded",
            cold={"url": f"file://{folder}/cold"},
            policies=POLICIES,
            embedded={"data_dir": f"{folder}/data"},
            jobs={"expire_max_share": 0.99},
        )
        async with open_runtime(read_config(settings), clock=VirtualClock(SystemClock().now())) as runtime:
            await runtime.check()
            await run_job("expire", runtime.job_context())  # the policies are in force; that waits a second
            yield runtime


def metas(runtime: Runtime, count: int) -> Iterator[list[SnapshotMeta]]:
    """Expired sagas of five, with random ids."""
    chance, begun = Random(3), to_micros(runtime.clock.now() - RETAIN - timedelta(days=1))
    model = [encode(snapshot, saved_us=begun) for snapshot in saga(1)]
    for number in range(-(-count // 5)):
        raw = ids(chance, 6)
        names = [UUID(bytes=raw[16 * at : 16 * at + 16]) for at in range(6)]
        yield [
            record.meta._replace(
                snapshot_id=names[at], saga_id=names[5], created_us=begun + number * 1000 + at, saved_us=begun
            )
            for at, record in enumerate(model)
        ]


async def save(runtime: Runtime, count: int, *, hot: bool, durable: bool) -> None:
    """Put expired snapshots where the facade would, 256 sagas at once; all have the context of one."""
    values = [to_value(encode(snapshot, saved_us=1), level=3) for snapshot in saga(1)]
    left = metas(runtime, count)

    async def some() -> None:
        for group in left:
            for meta, value in zip(group, values, strict=True):
                decision = runtime.policies.decide(meta, SagaEnd.of(meta), runtime.job_context().now_us)
                times = {"due_us": decision.due_us, "expires_us": decision.expires_us}
                stored = with_meta(value, meta)
                if durable:
                    await runtime.catalog.durable.put(meta, stored, **times, fallback=False)
                if hot:
                    await runtime.hot.save(meta, stored, **times)

    await asyncio.gather(*(some() for _ in range(256)))


def with_meta(value: bytes, meta: SnapshotMeta) -> bytes:
    """The same value under other ids and times; they are where `codec` puts them."""
    own = bytearray(value)
    own[8:24] = struct.pack(">qq", meta.saved_us, meta.created_us)
    own[52:84] = meta.snapshot_id.bytes + meta.saga_id.bytes
    assert read_meta(bytes(own)) == meta
    return bytes(own)


async def pack(runtime: Runtime, count: int, youngest: timedelta, seed: int) -> None:
    """Archived snapshots; the newest is so old."""
    revision, root = runtime.policies.retention_revision, Path(runtime.objects.url.removeprefix("file://"))
    wanted = Wanted(
        snapshots=count,
        now=runtime.clock.now(),
        retain=RETAIN,
        youngest=youngest,
        span=timedelta(days=9),
        seed=seed,
    )
    await fill(runtime.db, root, wanted, revision, tell=None)


async def archived(runtime: Runtime, count: int) -> None:
    """Packs of which everything has expired."""
    await pack(runtime, count, timedelta(days=31), 7)


async def half_archived(runtime: Runtime, count: int) -> None:
    """Packs of which every other saga has expired."""
    await pack(runtime, 2 * count, timedelta(days=31), 7)
    await runtime.db.execute(
        "UPDATE sagaz_tiering.snapshots SET expires_at = expires_at + interval '90 days' WHERE frame_no % 2 = 1"
    )
    await runtime.db.execute("VACUUM (ANALYZE) sagaz_tiering.snapshots")


async def hot(runtime: Runtime, count: int) -> None:
    """Only Redis has them."""
    await save(runtime, count, hot=True, durable=False)


async def durable(runtime: Runtime, count: int) -> None:
    """Redis and PostgreSQL have them."""
    await save(runtime, count, hot=True, durable=True)


async def durable_only(runtime: Runtime, count: int) -> None:
    """PostgreSQL has them; Redis has lost them."""
    await save(runtime, count, hot=False, durable=True)


WORKS: dict[str, Callable[[Runtime, int], Awaitable[None]]] = {
    "archived in dead packs": archived,
    "archived beside live ones": half_archived,
    "hot only": hot,
    "hot and durable": durable,
    "durable only": durable_only,
}


async def timed(runtime: Runtime, profile: cProfile.Profile | None) -> tuple[JobReport, float]:
    """One run of the job."""
    if profile is not None:
        profile.enable()
    began = time.perf_counter()
    report = await run_job("expire", runtime.job_context())
    seconds = time.perf_counter() - began
    if profile is not None:
        profile.disable()
    return report, seconds


def counted(runtime: Runtime) -> Counter[str]:
    """Counts the calls to the object store from now on."""
    calls: Counter[str] = Counter()
    store: Any = runtime.objects

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return method(*args, **more)

        return call

    for name in ("get", "get_range", "head", "put", "delete", "list"):
        setattr(store, name, counting(name, getattr(store, name)))
    return calls


async def measure(name: str, count: int, profile: cProfile.Profile | None) -> dict[str, Any]:
    """One work on servers of its own."""
    async with opened() as runtime:
        await WORKS[name](runtime, count)
        await pack(runtime, int(count * LIVE_SHARE), timedelta(days=8), 8)
        calls = counted(runtime)
        report, seconds = await timed(runtime, profile)
        gone = sum(report.counts.get(kind, 0) for kind in ("hot", "archived")) or report.counts.get("durable", 0)
        assert gone == count, report
        found = {"work": name, "snapshots": gone, "seconds": seconds, "per_second": gone / seconds}
        found |= {"counts": report.counts, "requests": dict(calls)}
        print(f"{name}: {gone:,} in {seconds:.2f} s, {gone / seconds:,.0f}/s; {report.counts}; requests {dict(calls)}")
        if "archived" in report.counts:
            runtime.clock.advance(timedelta(days=2))  # type: ignore[attr-defined]  # a VirtualClock
            calls.clear()
            report, seconds = await timed(runtime, None)
            print(f"  after the grace: {report.counts} in {seconds:.2f} s; requests {dict(calls)}")
            found["after_the_grace"] = {"counts": report.counts, "seconds": seconds, "requests": dict(calls)}
        return found


async def main(asked: argparse.Namespace) -> int:
    """Every work."""
    profile = cProfile.Profile() if asked.profile else None
    chosen: Sequence[str] = [name for name in WORKS if asked.only in name]
    found = [await measure(name, asked.snapshots, profile) for name in chosen]
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    if asked.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
        Path(asked.json).write_text(json.dumps({"machine": machine, "works": found}, indent=1))
    archived = [each for each in found if "archived" in each["counts"]]
    slow = [each["work"] for each in archived if each["per_second"] < MUST_REACH]
    print(f"MISSED: {', '.join(slow)} must reach {MUST_REACH:,}/s" if slow else f"archived: {MUST_REACH:,}/s or more")
    return 1 if slow else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=100_000)
    parser.add_argument("--only", default="", help="part of a work's name")
    parser.add_argument("--profile", action="store_true", help="where the time goes in this process")
    parser.add_argument("--json", help="write every figure to this file")
    sys.exit(asyncio.run(main(parser.parse_args())))
