"""Whether saves and reads became slower: an application of an earlier commit and one of this tree, by turns.

    git worktree add --detach /tmp/old COMMIT
    python benchmarks/commits.py --old /tmp/old [--rounds 20] [--only save] [--json FILE]

Both use the same embedded servers, each with a database and keys of its own. A round gives each a short turn; told are
the medians of the rounds' ratios, new to old, with their quartiles: of the application's processor time, which a busy
machine changes least, and of the time that passed; `least_us` is the least that any few calls took, as if nobody else
was there.
Exit code 1 if the processor time of any work is more than `--at-most` times the old.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import asyncpg

from sagaz_tiering.embedded import PostgresServer, RedisServer

WORKS = {
    "save-durable": 100,
    "save-durable 64 at once": 384,
    "save-hot": 1000,
    "save-hot 64 at once": 1920,
    "get": 200,
    "latest": 200,
    "at-time": 200,
    "list": 60,
    "job age": 2000,
    "job expire": 2000,
}
"""How many calls a turn has: of lists so many that full garbage collections, one in some twenty, weigh as in the long
run. A job is one command that moves or removes so many snapshots."""
FIGURES = ("cpu_us", "least_us", "wall_us")
MOVE = [{"to": "STANDARD_IA", "after": "7d"}]


@dataclass(slots=True)
class Side:
    """The application of one tree, and its figures by work."""

    process: asyncio.subprocess.Process
    found: dict[str, list[dict[str, float]]] = field(default_factory=lambda: {name: [] for name in WORKS})

    async def turn(self, work: str, count: int) -> None:
        """One turn of a work."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{work} {count}\n".encode())
        self.found[work].append(await answer(self.process))


async def answer(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """The next line that an application says."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise SystemExit("an application ended; what it said is above")
    found: dict[str, Any] = json.loads(line)
    return found


async def begin(tree: Path, config: Path, stack: AsyncExitStack) -> Side:
    """An application of that tree, with an empty catalog."""
    env = {**os.environ, "PYTHONPATH": str(tree)}

    async def start(*arguments: str, **pipes: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(sys.executable, *arguments, env=env, cwd=config.parent, **pipes)

    migrating = await start("-m", "sagaz_tiering", "catalog", "migrate", "--config", str(config), stdout=-3)
    if await migrating.wait():
        raise SystemExit(f"{tree} cannot make its catalog")
    app = str(Path(__file__).with_name("commits_app.py"))
    process = await start(app, str(config), stdin=-1, stdout=-1)

    async def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

    stack.push_async_callback(end)
    if (code := (await answer(process))["code"]) != str(tree):
        raise SystemExit(f"that is the code of {code}, not of {tree}")
    return Side(process)


async def both(asked: argparse.Namespace, stack: AsyncExitStack) -> tuple[Side, Side]:
    """Old and new, over the same servers."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sagaz-commits-")))
    folder.chmod(0o711)
    for each in ("postgres", "redis"):
        (folder / each).mkdir(mode=0o711)
    postgres = await stack.enter_async_context(PostgresServer(folder / "postgres"))
    redis = await stack.enter_async_context(RedisServer(folder / "redis"))
    sides = []
    for name, tree in (("old", Path(asked.old).resolve()), ("new", Path(asked.new).resolve())):
        connection = await asyncpg.connect(postgres.url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        config = folder / f"{name}.yaml"
        policies = [
            {"name": "hot", "match": {"saga_name": "hot"}, "durability": "hot", "move": MOVE},
            {"name": "durable", "match": {"saga_name": "durable"}, "move": MOVE},
            {"name": "brief", "match": {"saga_name": "brief"}, "retain": "1d"},
        ]
        hot, cold = {"url": redis.url, "key_prefix": name}, {"url": f"file://{folder}/{name}"}
        whole = {
            "tiers": {"hot": hot, "cold": cold},
            "catalog": {"url": postgres.url_of(name)},
            "policies": policies,
        }
        config.write_text(json.dumps(whole))
        sides.append(await begin(tree, config, stack))
    return sides[0], sides[1]


def ratios(old: list[dict[str, float]], new: list[dict[str, float]]) -> dict[str, Any]:
    """New to old: medians, and those of the rounds' ratios with their quartiles; of `least_us` the least of all."""
    found: dict[str, Any] = {}
    for name in FIGURES:
        each = [ours[name] / theirs[name] for ours, theirs in zip(new, old, strict=True)]
        sides = [[one[name] for one in side] for side in (old, new)]
        if name == "least_us":
            least = [min(side) for side in sides]
            found[name] = {"old": least[0], "new": least[1], "ratio": least[1] / least[0]}
            continue
        low, middle, high = quantiles(each, n=4) if len(each) > 1 else each * 3
        found[name] = {"old": median(sides[0]), "new": median(sides[1]), "ratio": middle, "quartiles": [low, high]}
    return found


def row(work: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [f"{found[name]['old']:9.1f} {found[name]['new']:9.1f} {found[name]['ratio']:6.3f}" for name in FIGURES]
    low, high = found["cpu_us"]["quartiles"]
    return f"{work:24}{'   '.join(cells)}   {low:.2f} to {high:.2f}"


async def main(asked: argparse.Namespace) -> int:
    """The whole run."""
    table: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        old, new = await both(asked, stack)
        heads = [f"{name:>9} {'new':>9} {'ratio':>6}" for name in FIGURES]
        print(f"{'':24}{'   '.join(heads)}   cpu_us, half of the ratios", flush=True)
        for work, count in WORKS.items():
            if asked.only not in work:
                continue
            for number in range(asked.rounds):
                for side in (old, new) if number % 2 else (new, old):
                    await side.turn(work, count)
            table[work] = ratios(old.found[work], new.found[work])
            print(row(work, table[work]), flush=True)
    if asked.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "rounds": asked.rounds}
        Path(asked.json).write_text(json.dumps({"machine": machine, "works": table}, indent=1) + "\n")
    return 0 if all(found["cpu_us"]["ratio"] <= asked.at_most for found in table.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True, help="a tree of the earlier commit")
    parser.add_argument("--new", default=Path(__file__).parent.parent, help="another tree than this one")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="part of a work's name")
    parser.add_argument("--at-most", type=float, default=1.05, help="what the processor time's ratio may be")
    parser.add_argument("--json", help="write the figures to this file")
    sys.exit(asyncio.run(main(parser.parse_args())))
