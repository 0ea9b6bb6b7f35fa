"""The command line: `sagaz-tiering`. Commands import what they need when they run, so that `--help` is quick.

`commands` has verbs by what they are about; they ask, call one function of a room below, and print a table or JSON.
It never holds a rule of its own: what a command decides is decided below, for the daemon as well.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (of `sys.argv` unless given) and return its exit code; see `sagaz_tiering.cli.app`."""
    from sagaz_tiering.cli.app import run_app

    return run_app(arguments)
