"""A configuration as a file, for processes of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.tiers import DEFAULT_POLICIES, cold_of, insistent


def write_config(
    path: Path,
    *,
    database: str,
    redis_url: str,
    cold: str | Path | dict[str, Any],
    pack: dict[str, Any] | None = None,
    policies: Sequence[dict[str, Any]] = DEFAULT_POLICIES,
    **sections: Any,
) -> Path:
    """Write the configuration as YAML (JSON is YAML); the file's path."""
    tiers = {"hot": {"url": redis_url}, "cold": cold_of(cold, pack)}
    whole = {"tiers": tiers, "catalog": {"url": database}, "policies": insistent(policies), **sections}
    path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    return path
