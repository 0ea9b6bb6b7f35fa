"""How much memory a process takes, its children included."""

from __future__ import annotations

import asyncio
from pathlib import Path


async def peak_mib(pid: int) -> float:
    """The most that a process and its children took together, pages that they share counted once.

    Looked at twenty times a second until the process is over. Of one without children, no peak is missed. (What a
    parent is told includes the fork.)
    """
    together = alone = 0
    while True:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        except (FileNotFoundError, ProcessLookupError):
            return max(together, alone) / 1024
        alone = max(alone, _kib(pid, "status", "VmHWM"))
        together = max(together, sum(_kib(each, "smaps_rollup", "Pss") for each in (pid, *map(int, children))))
        await asyncio.sleep(0.05)


def _kib(pid: int, file: str, name: str) -> int:
    """0 for a process that is over."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0)
