"""How fast saves and reads are: ours, sagaz's own backends and the bare client calls by turns, on embedded servers.

    python benchmarks/speed.py [--rounds 5] [--only "save to Redis"] [--json FILE] [--uvloop]

Prints a table of medians and ratios with what must be reached; exit code 1 if something was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from by_turns import Outcome, Work, compare, table
from plots import bars
from speed_works import (
    ATTRIBUTES,
    DURABLE,
    HOT,
    Field,
    Snapshots,
    cold,
    list_100,
    open_field,
    reads,
    save_durable,
    save_found,
    save_many,
    save_one,
    whole_saga,
)
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.embedded.servers import endpoints_of_running

BUCKET = "speed"
RESULTS = Path(__file__).parent / "results" / "speed.json"


def works(field: Field, scale: float) -> list[Work]:
    """All of them; `scale` makes the turns longer or shorter."""
    snapshots = Snapshots(field.runtime)

    def times(count: int) -> int:
        return max(10, int(count * scale))

    return [
        save_one(field, snapshots, times(300)),
        save_many(field, snapshots, times(1920)),
        save_durable(field, snapshots, times(1280)),
        *save_found(field, snapshots, times(300)),
        *reads(field, snapshots, times(300)),
        list_100(field, snapshots, times(12)),
        whole_saga(field, snapshots, times(60)),
        cold(field, BUCKET, times(40)),
    ]


def shares(outcomes: list[Outcome]) -> list[tuple[str, float]]:
    """For the plot: up to 1 a target is reached."""
    return [
        (
            f"{outcome.work.name} / {target.other}",
            outcome.ratio(target.other) / target.times
            if outcome.work.unit == "ms"
            else target.times / outcome.ratio(target.other),
        )
        for outcome in outcomes
        for target in outcome.work.targets
    ]


async def main(asked: argparse.Namespace) -> int:
    """The whole run."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)  # PostgreSQL may run as another user and must get to its data
        move = [{"to": "STANDARD_IA", "after": "7d"}]
        settings = write_config(
            Path(folder) / "tiering.yaml",
            database="embedded",
            redis_url="embedded",
            cold={"url": f"s3://{BUCKET}/bench", "endpoint_url": "embedded", "region": "us-east-1"},
            policies=[
                {"name": "hot", "match": {"saga_name": f"*{HOT}"}, "durability": "hot", "move": move},
                {"name": "durable", "match": {"saga_name": f"*{DURABLE}"}, "move": move},
            ],
            attributes=ATTRIBUTES,
            embedded={"data_dir": f"{folder}/data"},
        )
        async with open_runtime(read_config(settings)) as runtime:
            running = endpoints_of_running(Path(folder) / "data")
            assert running is not None
            async with open_field(runtime, running, BUCKET) as field:
                chosen = [work for work in works(field, asked.scale) if asked.only in work.name]
                outcomes = await compare(chosen, asked.rounds, lambda line: print(line, file=sys.stderr))
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "uvloop": asked.uvloop}
    if asked.json:
        report: dict[str, Any] = {"machine": machine, "works": [outcome.to_dict() for outcome in outcomes]}
        Path(asked.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
        plot = bars("time or cost as a share of what must be reached", shares(outcomes))
        Path(asked.json).with_suffix(".svg").write_text(plot, encoding="utf-8")
    print(f"Python {machine['python']}, {machine['cpus']} CPUs, {asked.rounds} rounds{', uvloop' * asked.uvloop}\n")
    print(table(outcomes))
    return 0 if all(o.reached(t) for o in outcomes for t in o.work.targets) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="how long a turn is")
    parser.add_argument("--only", default="", help="part of a work's name")
    parser.add_argument("--json", default=RESULTS, help=f"write every figure to this file ({RESULTS.name})")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # the engine logs every step
    if arguments.uvloop:
        import uvloop

        uvloop.install()
    sys.exit(asyncio.run(main(arguments)))
