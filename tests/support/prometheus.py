"""Prometheus' own tool, from the Debian package `prometheus`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest

needs_promtool = pytest.mark.skipif(which("promtool") is None, reason="no promtool here: apt-get install prometheus")


def run_promtool(*args: str, given: bytes = b"", cwd: Path | None = None) -> None:
    """Fail with what it says unless it is content."""
    done = subprocess.run(["promtool", *args], input=given, capture_output=True, cwd=cwd, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
