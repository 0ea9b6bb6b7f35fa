"""Move snapshots Redis -> S3 -> PostgreSQL -> filesystem -> memory, with SIGKILL in each leg; check every one.

    python benchmarks/transfer_legs.py [--snapshots 50000] [--concurrency 16] [--seed 1]

Each leg is `sagaz-tiering transfer` as a process of its own: killed at a random point, run again from its journal.
After it, everything at the target is read and compared with what was made: equal, none missing, none twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.payload import saga
from support.snapshots import replay

from sagaz_tiering import InMemorySnapshotStorage, transfer_snapshots
from sagaz_tiering.app.storage_url import open_source, open_storage
from sagaz_tiering.embedded import EmbeddedServers
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot
from sagaz_tiering.storage.base import SnapshotSource
from sagaz_tiering.transfer.target import record_of

BUCKET = "legs"
POLL_S = 0.02
DEADLINE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What was made, again and again the same: `snapshots` in sagas of five, and one replay record for each 100."""

    snapshots: int

    def sagas(self) -> Iterator[list[SagaSnapshot]]:
        """Five snapshots at a time."""
        return (saga(number) for number in range(self.snapshots // 5))

    def replays(self) -> Iterator[ReplayResult]:
        """Records with context."""
        for number in range(self.snapshots // 100):
            [first, *_] = saga(number)
            override = {"number": number, "price": 1.0, "tuple": (1, True)}
            yield replay(number, original_saga_id=first.saga_id, context_override=override)

    async def digests(self) -> dict[UUID, tuple[Any, ...]]:
        """What identifies each snapshot, to the type of every value."""
        return {s.snapshot_id: await digest(s) for five in self.sagas() for s in five}


async def digest(snapshot: SagaSnapshot) -> tuple[Any, ...]:
    """Everything but the body, and its checksum."""
    record = await record_of(snapshot)
    return (*record.meta, record.encoding, len(record.body))


async def fill(url: str, original: Original) -> None:
    """Save the original."""
    async with open_storage(url) as storage:
        for five in original.sagas():
            await asyncio.gather(*map(storage.save_snapshot, five))
        for result in original.replays():
            await storage.save_replay_log(result)


async def check(source: SnapshotSource, original: Original) -> None:
    """Everything is there, equal, and once."""
    wanted, found = await original.digests(), 0
    async for snapshot in source.iter_snapshots():
        assert wanted.pop(snapshot.snapshot_id) == await digest(snapshot), snapshot
        found += 1
    assert not wanted, f"{len(wanted)} are missing"
    assert found == original.snapshots
    records = [record async for record in source.iter_replay_logs()]
    assert records == [result.to_dict() for result in original.replays()]


class Leg:
    """One transfer by the command line."""

    def __init__(self, source: str, target: str, journal: Path, concurrency: int) -> None:
        self._journal = journal
        self._command = [
            sys.executable,
            "-m",
            "sagaz_tiering.cli",
            "transfer",
            "--json",
            "--from",
            source,
            "--to",
            target,
        ]
        self._command += ["--concurrency", str(concurrency)]
        if not target.startswith("memory"):
            self._command += ["--journal", str(journal)]

    async def killed_at(self, count: int) -> int:
        """Run until the journal says that `count` are done, then SIGKILL; how many were."""
        process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.DEVNULL)
        until = time.monotonic() + DEADLINE_S
        while (done := self._done()) < count and process.returncode is None:
            assert time.monotonic() < until
            await asyncio.sleep(POLL_S)
        assert process.returncode is None, "it ended before it was killed"
        process.kill()
        await process.wait()
        return done

    async def killed_after(self, seconds: float) -> None:
        """For a target without a journal."""
        process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.DEVNULL)
        await asyncio.sleep(seconds)
        assert process.returncode is None, "it ended before it was killed"
        process.kill()
        await process.wait()

    async def finished(self) -> dict[str, Any]:
        """Run to the end; the report."""
        process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        report: dict[str, Any] = json.loads(output)
        return report

    def _done(self) -> int:
        try:
            return int(json.loads(self._journal.read_bytes())["snapshots"]["found"])
        except FileNotFoundError:
            return 0


def say_leg(name: str, killed: int, report: dict[str, Any], original: Original) -> None:
    """One line, after checking that the report adds up over both runs."""
    counts = report["snapshots"]
    assert report["resumed"]
    assert counts["found"] == original.snapshots == counts["copied"] + counts["already_there"]
    assert report["replay_logs"]["found"] == original.snapshots // 100
    again = counts["already_there"]
    rate = original.snapshots / report["seconds"]
    print(f"{name:26} killed at {killed:6}, {again:4} met again, {report['seconds']:7.1f} s, {rate:6.0f}/s", flush=True)


@asynccontextmanager
async def places(folder: Path) -> AsyncIterator[dict[str, str]]:
    """Real servers, and the URL of an empty storage of each kind."""
    async with EmbeddedServers.start(folder / "data", durable=False, bucket=BUCKET) as servers:
        user, secret = servers.s3_credentials
        os.environ |= {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": secret}
        yield {
            "redis": f"{servers.redis_url}?key_prefix=legs:",
            "s3": f"s3://{BUCKET}/snapshots?endpoint_url={servers.s3_endpoint}",
            "postgresql": servers.postgres_url,
            "filesystem": f"file://{folder}/files",
        }


async def main(snapshots: int, concurrency: int, seed: int) -> None:
    """The whole run."""
    original, random = Original(snapshots=snapshots - snapshots % 100), Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with places(folder) as urls:
            began = time.monotonic()
            await fill(urls["redis"], original)
            print(f"{original.snapshots} snapshots into Redis in {time.monotonic() - began:.1f} s", flush=True)
            kinds = list(urls)
            for source, target in pairwise(kinds):
                leg = Leg(urls[source], urls[target], folder / f"{target}.json", concurrency)
                killed = await leg.killed_at(int(original.snapshots * random.uniform(0.1, 0.8)))
                say_leg(f"{source} -> {target}", killed, await leg.finished(), original)
                async with open_storage(urls[target]) as storage:
                    await check(storage, original)
            await to_memory(urls["filesystem"], original, concurrency, random)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"all {original.snapshots} are equal after every leg, none twice; peak memory of a process {peak:.0f} MiB")


async def to_memory(url: str, original: Original, concurrency: int, random: Random) -> None:
    """A target in memory ends with its process: killed, it begins anew."""
    leg = Leg(url, "memory://", Path(os.devnull), concurrency)
    await leg.killed_after(timedelta(seconds=random.uniform(0.8, 1.5)).total_seconds())
    memory, began = InMemorySnapshotStorage(), time.monotonic()
    async with open_source(url) as source:
        report = await transfer_snapshots(source, memory, concurrency=concurrency)
    assert report.snapshots.copied == original.snapshots
    await check(memory, original)
    seconds = time.monotonic() - began
    print(f"{'filesystem -> memory':26} killed, begun anew, {seconds:22.1f} s, {original.snapshots / seconds:6.0f}/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=50_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    asyncio.run(main(asked.snapshots, asked.concurrency, asked.seed))
