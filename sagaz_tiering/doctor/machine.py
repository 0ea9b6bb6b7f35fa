"""This machine and its configuration: packages, folders, what is probably not meant, and how old the prices are."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path

from sagaz_tiering.config.load import ConfigWarning
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.doctor.finding import Findings
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.terminal import counted, show_bytes

DISTRIBUTION = "sagaz-tiering"
LITTLE_ROOM = 2**30
OLD_PRICES = timedelta(days=365)
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)(?:;.*extra\s*==\s*["']([^"']+)["'])?""")
_LIMIT = re.compile(r"(>=|<)\s*([0-9][0-9.]*)")


async def check_packages(found: Findings) -> None:
    """What every installation needs, in a version that it was made for; the extras are asked for elsewhere."""
    own = metadata.version(DISTRIBUTION)
    for text in metadata.requires(DISTRIBUTION) or ():
        check_requirement(text, found)
    if not found:
        extras = [name for name in ("cryptography", "sagaz", "moto") if importlib.util.find_spec(name) is not None]
        having = f", with {', '.join(extras)}" if extras else ""
        found.ok("packages", f"{DISTRIBUTION} {own} on Python {platform.python_version()}, all packages{having}")


def check_requirement(text: str, found: Findings) -> None:
    """What is wrong with one requirement of ours, as the package's metadata write it."""
    match = _REQUIREMENT.match(text)
    if match is None or match[3] is not None:
        return
    name, limits = match[1], match[2].strip()
    advice = f"pip install '{name}{limits}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        found.error("packages", f"{name} is not installed", advice)
        return
    for sign, limit in _LIMIT.findall(limits):
        enough = _numbers(version) >= _numbers(limit)
        if enough is (sign == "<"):
            found.warning("packages", f"{name} {version} is installed, {limits} is asked for", advice)


def _numbers(version: str) -> tuple[int, ...]:
    """As many as count: `5.2` and `5.2.0` are the same."""
    found = [int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]", version)[0])][:4]
    return tuple(found + [0] * (4 - len(found)))


async def check_folders(config: TieringConfig, found: Findings) -> None:
    """Folders that hold data of ours on this machine."""
    if config.embedded is not None:
        await asyncio.to_thread(_folder, found, "embedded.data_dir", config.embedded.data_dir)
    if config.tiers.cold.is_directory:
        await asyncio.to_thread(_folder, found, "tiers.cold.url", config.tiers.cold.directory)


def _folder(found: Findings, setting: str, folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        hint = "let this user write there, or name another"
        found.error("folders", f"{setting}: {there} cannot be written", hint)
        return
    room = shutil.disk_usage(there).free
    text = f"{setting}: {folder}, {show_bytes(room)} free"
    if room < LITTLE_ROOM:
        found.warning("folders", text, "make room before the next run: saves and packs need it")
    else:
        found.ok("folders", text + ("" if there == folder else "; it will be made"))


async def check_policies(
    config: TieringConfig, warnings: Sequence[ConfigWarning], now: datetime, found: Findings
) -> None:
    """Warnings of `policy check`, and the price list."""
    for each in warnings:
        found.warning("policy", str(each), "correct it, or leave it if it is meant; see: sagaz-tiering policy check")
    if not warnings:
        revision = PolicySet(config.policies).revision
        policies = counted(len(config.policies), "policy", "policies")
        found.ok("policy", f"{policies}, nothing doubtful (revision {revision})")
    cold = config.tiers.cold
    if cold.is_directory and cold.region is None:
        found.ok("prices", "the cold tier is a directory; costs are shown by the prices of us-east-1")
        return
    prices = PriceList.load(cold.region)
    text = f"list prices of {prices.region} of {prices.as_of}"
    if prices.is_estimate:
        hint = "set tiers.cold.region to a region with a price list, or read all costs as estimates"
        found.warning("prices", f"no prices of {cold.region or 'an unnamed region'}: {text} are used", hint)
    elif now.date() - prices.as_of > OLD_PRICES:
        hint = "upgrade sagaz-tiering, or read all costs as estimates"
        found.warning("prices", f"{text}: older than a year", hint)
    else:
        found.ok("prices", text)
