"""What a changed configuration file asks for: what can be put in force at once, and what needs a restart."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from sagaz_tiering.config.model import TieringConfig

_NEEDS_RESTART = ("tiers", "catalog", "embedded", "encryption", "daemon.host", "daemon.port", "console", "jobs.nice")
"""What is set at start: servers, sockets, and how much the process yields to others, which cannot be taken back."""


def changes(old: TieringConfig, new: TieringConfig) -> list[str]:
    """Names of the settings that differ, such as `tiers.hot.url`; never their values. Policies count as one."""
    return list(_differing(old, new, ""))


def needing_restart(names: list[str]) -> list[str]:
    """Those of `names` that a reload does not put in force."""
    return [name for name in names if any(name == part or name.startswith(part + ".") for part in _NEEDS_RESTART)]


def _differing(old: BaseModel, new: BaseModel, prefix: str) -> Iterator[str]:
    for field in type(old).model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            yield from _differing(before, after, f"{prefix}{field}.")
        elif before != after:
            yield f"{prefix}{field}"
