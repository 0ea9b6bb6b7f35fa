"""A million answers of one storage in mixed use: its home loop, threads with loop after loop, forked processes.

    python benchmarks/loops.py --answers 1000000

Every answer is compared with what was asked. Exits non-zero if one was foreign, or an error.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.mixed_use import Told, mixed_use
from support.tiers import NOW, config

from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.embedded import EmbeddedServers


async def main(answers: int, seed: int, threads: int, forks: int) -> bool:
    """Whether every answer was the asker's own."""
    began = time.perf_counter()

    def tell(who: str, told: Told) -> None:
        seconds = time.perf_counter() - began
        others = {name: count for name, count in told.items() if name not in ("own", "foreign")}
        rate = told.total() / seconds
        print(f"{who:10} {told['own']:9,} own {told['foreign']:5,} foreign {rate:7,.0f}/s {others or ''}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedServers.start(Path(folder, "servers"), s3=False, durable=False) as servers:
            settings = config(database=servers.postgres_url, redis_url=servers.redis_url, cold=Path(folder, "cold"))
            async with open_runtime(settings, clock=VirtualClock(NOW)) as runtime:
                await migrate(runtime.db)
                found = await mixed_use(runtime.storage(), answers, seed=seed, threads=threads, forks=forks, tell=tell)
    total = sum(found.values(), Told())
    tell("all", total)
    return total["own"] == total.total() == answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--forks", type=int, default=2)
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(main(given.answers, given.seed, given.threads, given.forks)) else 1)
