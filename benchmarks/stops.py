"""How long does a daemon take to end after SIGTERM, under load, at any moment of its life?

    python benchmarks/stops.py [--stops 50] [--seed 1]

An application saves all the while, and jobs run as often as they can. Exits non-zero if a daemon did not end in order
within its grace.
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
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.yaml_config import write_config

from sagaz_tiering.engine import JOBS
from sagaz_tiering.wiring import open_runtime, read_config

GRACE_S = 5
POLICIES = [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "1s"}], "linger": "1s"}]


async def main(stops: int, seed: int) -> int:
    """Start and stop; the exit code."""
    chance = random.Random(seed)
    took: list[float] = []
    codes: list[int | None] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        config = write_config(
            folder / "tiering.yaml",
            database="embedded",
            redis_url="embedded",
            cold={"url": "s3://stops/bench", "endpoint_url": "embedded", "region": "us-east-1"},
            policies=POLICIES,
            embedded={"data_dir": f"{folder}/data"},
            schedule={job: {"every": "1s", "jitter": "0s"} for job in JOBS},
            daemon={"port": 0, "shutdown_grace": f"{GRACE_S}s"},
        )
        async with open_runtime(read_config(config)):
            with (folder / "application.out").open("wb") as out:
                application = await asyncio.create_subprocess_exec(
                    *(sys.executable, str(Path(__file__).parent / "storm_app.py"), str(config)),
                    *(str(folder / "application.log"), str(seed), "stops"),
                    env=os.environ | {"STORM_BEGAN_US": str(time.time_ns() // 1000)},
                    stdout=out,
                    stderr=out,
                )
            for number in range(stops):
                with (folder / f"daemon-{number}.out").open("wb") as out:
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "sagaz_tiering.cli", "run", "--config", str(config)),
                        stdout=out,
                        stderr=out,
                    )
                await asyncio.sleep(chance.uniform(2, 8))  # from before it answers to well into its work
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                codes.append(await process.wait())
                took.append(time.monotonic() - began)
                print(f"{number + 1}: {took[-1]:.2f} s, exit code {codes[-1]}", flush=True)
            application.kill()
            await application.wait()
    print(f"{stops} stops: median {median(took):.2f} s, longest {max(took):.2f} s, exit codes {sorted(set(codes))}")
    return 0 if max(took) < GRACE_S + 30 and set(codes) <= {0, -signal.SIGTERM} else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    sys.exit(asyncio.run(main(asked.stops, asked.seed)))
