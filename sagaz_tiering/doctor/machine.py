"""This machine: Python, its packages, and the folders that the configuration names."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import AsyncGenerator, Iterator
from importlib import metadata
from pathlib import Path

from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.doctor.finding import Finding, error, ok, warning
from sagaz_tiering.terminal import show_bytes

DISTRIBUTION = "sagaz-tiering"
LITTLE_ROOM = 2**30
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)(?:;.*extra\s*==\s*["']([^"']+)["'])?""")
_LIMIT = re.compile(r"(>=|<)\s*([0-9][0-9.]*)")


async def check_packages() -> AsyncGenerator[Finding, None]:
    """What every installation needs, in a version that it was made for; the extras are asked for elsewhere."""
    own = metadata.version(DISTRIBUTION)
    wrong = [found for text in metadata.requires(DISTRIBUTION) or () for found in requirement(text)]
    for each in wrong:
        yield each
    if not wrong:
        extras = [name for name in ("cryptography", "sagaz", "moto") if importlib.util.find_spec(name) is not None]
        having = f", with {', '.join(extras)}" if extras else ""
        yield ok("packages", f"{DISTRIBUTION} {own} on Python {platform.python_version()}, all packages{having}")


def requirement(text: str) -> Iterator[Finding]:
    """What is wrong with one requirement of ours, as the package's metadata write it."""
    match = _REQUIREMENT.match(text)
    if match is None or match[3] is not None:
        return
    name, limits = match[1], match[2].strip()
    advice = f"pip install '{name}{limits}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        yield error("packages", f"{name} is not installed", advice)
        return
    for sign, limit in _LIMIT.findall(limits):
        enough = _numbers(version) >= _numbers(limit)
        if enough is (sign == "<"):
            yield warning("packages", f"{name} {version} is installed, {limits} is asked for", advice)


def _numbers(version: str) -> tuple[int, ...]:
    """As many as count: `5.2` and `5.2.0` are the same."""
    found = [int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]", version)[0])][:4]
    return tuple(found + [0] * (4 - len(found)))


async def check_folders(config: TieringConfig) -> AsyncGenerator[Finding, None]:
    """Folders that hold data of ours on this machine."""
    folders: list[tuple[str, Path]] = []
    if config.embedded is not None:
        folders.append(("embedded.data_dir", config.embedded.data_dir))
    if config.tiers.cold.is_directory:
        folders.append(("tiers.cold.url", config.tiers.cold.directory))
    for setting, folder in folders:
        yield await asyncio.to_thread(_folder, setting, folder)


def _folder(setting: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return error("folders", f"{setting}: {there} cannot be written", "let this user write there, or name another")
    room = shutil.disk_usage(there).free
    text = f"{setting}: {folder}, {show_bytes(room)} free"
    if room < LITTLE_ROOM:
        return warning("folders", text, "make room before the next run: saves and packs need it")
    return ok("folders", text + ("" if there == folder else "; it will be made"))
