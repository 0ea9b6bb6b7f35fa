"""From Redis to packs: how fast one daemon ages, beside a bare loop that checks nothing, and beside sagaz's own way.

    python benchmarks/ageing.py [--snapshots 20000] [--rounds 3] [--s3] [--durable] [--json FILE]

Each round fills Redis anew for each contender. The limit: MGET, regroup by saga, frames with a dictionary on two
threads, a file that is flushed to the disk, COPY, compare-and-delete; no claims, no reading back, no order of writes
that survives a crash. The peer is what sagaz's documentation shows: read a snapshot from one of its storages, save it
in another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import asyncpg
import redis.asyncio
from bare_ageing import Bare
from by_turns import OURS, Target, Work, compare, table
from memory import peak_mib
from sagaz.core.storage.backends.redis.snapshot import RedisSnapshotStorage as PeerRedis
from sagaz.core.storage.backends.s3.snapshot import S3SnapshotStorage as PeerS3
from speed_works import LIMIT, PEER, theirs
from support.payload import saga
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.codec.value import encode, to_value
from sagaz_tiering.embedded.servers import Endpoints, endpoints_of_running
from sagaz_tiering.policy import Durability
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta

BUCKET = "ageing"
PEER_SNAPSHOTS = 200
AT_ONCE = 512
LOCAL_SHARE, S3_SHARE = 20_000 / 41_000, 15_000 / 41_000
"""What must be reached of the limit."""


@dataclass(slots=True, kw_only=True)
class Backlogs:
    """Fresh sagas that are due, round after round."""

    runtime: Runtime
    snapshots: int
    policy: str
    made: int = 0
    level: int | None = 1
    peaks_mib: list[float] = field(default_factory=list)

    def take(self) -> list[tuple[SagaSnapshot, SnapshotMeta, bytes]]:
        """Values of `snapshots` snapshots in sagas of five, as a facade saves them."""
        begun, found = self.runtime.clock.now() - timedelta(days=40), []
        for number in range(self.made, self.made + self.snapshots // 5):
            for one in saga(number, begun=begun + timedelta(seconds=number), saga_name=self.policy):
                record = encode(one, saved_us=int(one.created_at.timestamp() * 1e6))
                dictionary = self.runtime.dictionaries.for_writing(one.saga_name)
                found.append((one, record.meta, to_value(record, level=self.level, dictionary=dictionary)))
        self.made += self.snapshots // 5
        return found


async def age_time(backlogs: Backlogs, settings: Path) -> float:
    """Snapshots a second of `sagaz-tiering job age --once`, a process of its own."""
    saver = backlogs.runtime.storage()._saver  # with values made before
    taken = backlogs.take()
    for start in range(0, len(taken), AT_ONCE):
        batch = taken[start : start + AT_ONCE]
        await asyncio.gather(*(saver.put(*each) for each in batch))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sagaz_tiering", "job", "age", "--once", "--json", "--config", str(settings)),
        stdout=asyncio.subprocess.PIPE,
    )
    watching = asyncio.create_task(peak_mib(process.pid))
    output, _ = await process.communicate()
    report = json.loads(output)
    assert report["counts"]["archived"] == len(taken), report
    assert report["counts"]["evicted"] == len(taken), report
    backlogs.peaks_mib.append(await watching)
    return len(taken) / float(report["seconds"])


async def peer_rate(source: PeerRedis, target: PeerS3, runtime: Runtime) -> float:
    """The documentation's loop, one snapshot after the other."""
    models = [one for number in range(PEER_SNAPSHOTS // 5) for one in saga(number, begun=runtime.clock.now())]
    ids = []
    for one in models:
        ids.append(uuid4())
        await source.save_snapshot(theirs(one).__class__(**{**vars(theirs(one)), "snapshot_id": ids[-1]}))
    began = time.perf_counter()
    for snapshot_id in ids:
        await target.save_snapshot(await source.get_snapshot(snapshot_id))
        await source.delete_snapshot(snapshot_id)
    return len(ids) / (time.perf_counter() - began)


@asynccontextmanager
async def place(folder: Path, s3: bool, durable: bool) -> AsyncIterator[tuple[Runtime, Endpoints, Path]]:
    """Servers, and a configuration of two policies that differ in durability."""
    cold: dict[str, Any] = {"url": f"file://{folder}/cold"}
    if s3:
        cold = {"url": f"s3://{BUCKET}/bench", "endpoint_url": "embedded", "region": "us-east-1"}
    durability = Durability.DURABLE if durable else Durability.HOT
    settings = write_config(
        folder / "tiering.yaml",
        database="embedded",
        redis_url="embedded",
        cold=cold,
        policies=[{"name": "all", "durability": durability, "move": [{"to": "STANDARD_IA", "after": "7d"}]}],
        embedded={"data_dir": f"{folder}/data", "s3": True},
    )
    async with open_runtime(read_config(settings)) as runtime:
        running = endpoints_of_running(folder / "data")
        assert running is not None
        yield runtime, running, settings


async def main(asked: argparse.Namespace) -> int:
    """The whole run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with AsyncExitStack() as stack:
            runtime, running, settings = await stack.enter_async_context(place(folder, asked.s3, asked.durable))
            backlogs = Backlogs(runtime=runtime, snapshots=asked.snapshots, policy="order-processing")
            contenders = {OURS: lambda: age_time(backlogs, settings)}
            if asked.limit:
                pool = await stack.enter_async_context(asyncpg.create_pool(running.postgres_url))
                client = redis.asyncio.Redis.from_url(running.redis_url)
                stack.push_async_callback(client.aclose)
                bare = Bare(client, pool, folder / "bare")
                contenders[LIMIT] = lambda: bare.rate(backlogs.take())
            if asked.s3 and asked.peer:
                source = await stack.enter_async_context(PeerRedis(running.redis_url))
                os.environ["AWS_ACCESS_KEY_ID"] = str(running.s3_access_key_id)
                os.environ["AWS_SECRET_ACCESS_KEY"] = str(running.s3_secret_access_key)
                target = PeerS3(BUCKET, region_name="us-east-1", prefix="peer/", endpoint_url=running.s3_endpoint)
                await stack.enter_async_context(target)
                contenders[PEER] = lambda: peer_rate(source, target, runtime)
            work = Work(
                name=f"hot -> cold, {'S3 server' if asked.s3 else 'local object store'}",
                unit="/s",
                contenders=contenders,
                targets=[Target(other=LIMIT, times=S3_SHARE if asked.s3 else LOCAL_SHARE)] if asked.limit else [],
            )
            [outcome] = await compare([work], asked.rounds, lambda line: print(line, file=sys.stderr))
            totals = [t for t in await runtime.catalog.packs.totals() if t.state == "ACTIVE"]
            size, count = sum(t.bytes for t in totals), sum(t.snapshots for t in totals)
    print(table([outcome]))
    print(
        f"{size / count:.0f} bytes a snapshot in packs, footers included; peak memory {max(backlogs.peaks_mib):.0f} MiB"
    )
    print(f"median {median(outcome.figures[OURS]):,.0f} snapshots a second")
    if asked.json:
        Path(asked.json).write_text(json.dumps(outcome.to_dict(), indent=1), encoding="utf-8")
    return 0 if all(map(outcome.reached, work.targets)) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--s3", action="store_true", help="cold tier on the embedded S3 server")
    parser.add_argument("--durable", action="store_true", help="saves are acknowledged by PostgreSQL")
    parser.add_argument("--no-limit", dest="limit", action="store_false")
    parser.add_argument("--no-peer", dest="peer", action="store_false")
    parser.add_argument("--json", help="write every figure to this file")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(main(parser.parse_args())))
