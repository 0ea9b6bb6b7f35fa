"""How the time of each operation grows with the number of snapshots in the store.

    python benchmarks/growth.py [--sizes 1000 10000 100000 1000000] [--hot 100000] [--calls 200] [--out FOLDER]

One store grows from size to size: so many archived snapshots are in the catalog (`catalogs.py`), and as many, at most
`--hot`, really in Redis and PostgreSQL. Cold reads are of a thousand really packed ones. Writes `growth.json` and
`growth.svg`; exit code 1 if an operation grows faster than the logarithm of the size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from catalogs import MOVES, POLICIES, Wanted, fill
from plots import Line, log_log
from support.payload import saga
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.jobs import run_job
from sagaz_tiering.operations.status import collect
from sagaz_tiering.snapshot import SagaSnapshot

RESULTS = Path(__file__).parent / "results"
PACKED_SAGAS = 200
ROUNDS = 5
LEAST_GROWTH = 1.25
"""What the noise of a busy machine is allowed on top of the logarithm."""
Saga = list[SagaSnapshot]


class Store:
    """What is in the growing store, and how to ask it."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.storage = runtime.storage()
        self.packed: list[Saga] = []
        self.hot: list[Saga] = []
        self._archived = 0
        self._number = 0
        self._chance = random.Random(5)

    async def pack_some(self) -> None:
        """Real packs, for cold reads."""
        begun = SystemClock().now() - timedelta(days=40)
        self.packed = await self._save(PACKED_SAGAS, begun)
        report = await run_job("age", self.runtime.job_context())
        assert report.counts["archived"] == 5 * PACKED_SAGAS, report

    async def grow(self, size: int, most_hot: int) -> None:
        """To `size` archived snapshots, and as many hot ones up to `most_hot`."""
        wanted = Wanted(snapshots=size - self._archived, now=SystemClock().now(), seed=size, per_pack=20_000)
        await fill(self.runtime.db, None, wanted, self.runtime.policies.retention_revision, tell=None)
        self._archived = size
        missing = min(size, most_hot) // 5 - len(self.hot)
        self.hot += await self._save(missing, SystemClock().now() - timedelta(hours=5))
        await self.runtime.db.execute("VACUUM (ANALYZE) sagaz_tiering.saga_snapshots")

    async def _save(self, count: int, begun: Any) -> list[Saga]:
        made: list[Saga] = []
        for start in range(0, count, 64):
            some = [
                saga(self._number + n, begun=begun, saga_name="order") for n in range(start, min(count, start + 64))
            ]
            await asyncio.gather(*(self.storage.save_snapshot(snapshot) for one in some for snapshot in one))
            made += some
        self._number += count
        return [_light(one) for one in made]

    def operations(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Each call asks for another random saga or snapshot."""
        storage, runtime, choice = self.storage, self.runtime, self._chance.choice

        def any_of(sagas: Sequence[Saga]) -> SagaSnapshot:
            return choice(choice(sagas))

        async def save() -> None:
            self._number += 1
            await storage.save_snapshot(saga(self._number, begun=SystemClock().now(), saga_name="new")[0])

        async def at_time(sagas: Sequence[Saga]) -> object:
            one = any_of(sagas)
            return await storage.get_snapshot_at_time(one.saga_id, one.created_at)

        return {
            "save": save,
            "get": lambda: storage.get_snapshot(any_of(self.hot).snapshot_id),
            "latest": lambda: storage.get_latest_snapshot(any_of(self.hot).saga_id),
            "at time": lambda: at_time(self.hot),
            "list 5": lambda: storage.list_snapshots(any_of(self.hot).saga_id, 5),
            "timeline": lambda: storage.timeline(any_of(self.hot).saga_id),
            "cold get": lambda: storage.get_snapshot(any_of(self.packed).snapshot_id),
            "cold at time": lambda: at_time(self.packed),
            "cold timeline": lambda: storage.timeline(any_of(self.packed).saga_id),
            "explain": lambda: storage.explain(any_of(self.packed).snapshot_id),
            "status": lambda: collect(runtime.job_context(), count=False),
        }


def _light(one: Saga) -> Saga:
    """Ids and times are enough to ask; the contexts of all of them would fill the memory."""
    return [SagaSnapshot(**{**_fields(snapshot), "context": {}}) for snapshot in one]


def _fields(snapshot: SagaSnapshot) -> dict[str, Any]:
    return {name: getattr(snapshot, name) for name in SagaSnapshot.__dataclass_fields__}


async def times(store: Store, calls: int) -> dict[str, float]:
    """Milliseconds of one call: the median of each round, and of the rounds the best (noise only ever adds)."""
    operations, found = store.operations(), dict[str, list[float]]()
    for _ in range(ROUNDS):
        for name, call in operations.items():
            took = []
            for _ in range(max(5, calls // 20 if name == "status" else calls)):
                began = time.perf_counter()
                answer = await call()
                took.append((time.perf_counter() - began) * 1000)
                assert answer is not None or name == "save", name
            found.setdefault(name, []).append(median(took))
    return {name: min(medians) for name, medians in found.items()}


def verdicts(sizes: Sequence[int], found: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """For each operation: times, the exponent of a power law through them, and whether the logarithm bounds it."""
    judged: dict[str, dict[str, Any]] = {}
    allowed = math.log(sizes[-1]) / math.log(sizes[0]) * LEAST_GROWTH
    for name in found[0]:
        took = [each[name] for each in found]
        growth = took[-1] / took[0]
        judged[name] = {"ms": took, "exponent": slope(sizes, took), "growth": growth, "ok": growth <= allowed}
    return judged


def slope(sizes: Sequence[int], took: Sequence[float]) -> float:
    """Of the least-squares line through log(time) over log(size): 0 is constant, 1 is proportional."""
    xs, ys = [math.log(size) for size in sizes], [math.log(each) for each in took]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


def table(sizes: Sequence[int], judged: dict[str, dict[str, Any]]) -> str:
    """For people; times in ms."""
    head = "operation       " + "".join(f"{size:>12,}" for size in sizes) + "  exponent  growth  verdict"
    lines = [head, "-" * len(head)]
    for name, one in judged.items():
        row = "".join(f"{each:>12.3f}" for each in one["ms"])
        verdict = "ok" if one["ok"] else "GROWS FASTER THAN LOG N"
        lines.append(f"{name:<16}{row}{one['exponent']:>10.3f}{one['growth']:>7.2f}x  {verdict}")
    return "\n".join(lines)


async def measure(sizes: Sequence[int], most_hot: int, calls: int) -> list[dict[str, float]]:
    """The times at each size."""
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), []
        os.chmod(folder, 0o711)  # PostgreSQL may run as another user and must get to its data
        settings = write_config(
            folder / "tiering.yaml",
            database="embedded",
            redis_url="embedded",
            cold={"url": f"file://{folder}/cold", "region": "us-east-1"},
            policies=[*POLICIES, {"name": "rest", "match": {}, "move": MOVES}],
            embedded={"data_dir": f"{folder}/data"},
        )
        async with open_runtime(read_config(settings)) as runtime:
            await runtime.check()
            store = Store(runtime)
            await store.pack_some()
            for size in sizes:
                began = time.monotonic()
                await store.grow(size, most_hot)
                print(f"{size:,} snapshots after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
                found.append(await times(store, calls))
    return found


async def main(asked: argparse.Namespace) -> int:
    """The whole run."""
    found = await measure(asked.sizes, asked.hot, asked.calls)
    judged = verdicts(asked.sizes, found)
    machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
    report = {"machine": machine, "sizes": asked.sizes, "hot": asked.hot, "operations": judged}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "growth.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    lines = [Line(name=name, ys=one["ms"]) for name, one in judged.items()]
    drawn = log_log(
        "Median time of one call by the size of the store", "snapshots in the store", "ms", asked.sizes, lines
    )
    (asked.out / "growth.svg").write_text(drawn, encoding="utf-8")
    print(table(asked.sizes, judged))
    return 0 if all(one["ok"] for one in judged.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--hot", type=int, default=100_000, help="most snapshots in Redis")
    parser.add_argument("--calls", type=int, default=200, help="calls of each operation in a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    sys.exit(asyncio.run(main(parser.parse_args())))
