"""Processor time of starting the command line, beside the interpreter alone: python benchmarks/start.py [--rounds 10]

The least of the rounds: on a busy machine the rest is that of others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage

WANTED_S = 0.3
COMMANDS = {
    "python alone": ["-c", "pass"],
    "--help": ["-m", "sagaz_tiering", "--help"],
    "--version": ["-m", "sagaz_tiering", "--version"],
}


def used_s() -> float:
    """By the processes that have ended so far."""
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measured_s(arguments: list[str]) -> float:
    """Of one process."""
    before = used_s()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return used_s() - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    least = {name: min(measured_s(command) for _ in range(rounds)) for name, command in COMMANDS.items()}
    for name, seconds in least.items():
        print(
            f"{name:<13} {seconds:.3f} s of processor time ({seconds / least['python alone']:.1f} times python alone)"
        )
    print(f"wanted: --help within {WANTED_S} s")
