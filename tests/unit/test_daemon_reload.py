"""What a changed configuration asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagaz_tiering.config.load import load_config
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.daemon.daemon import changes, needing_restart

BASE = """
tiers:
  hot: {url: "redis://:hunter2@127.0.0.1/0"}
  cold: {url: "file:///tmp/cold"}
catalog: {url: "postgresql://127.0.0.1/sagaz"}
policies: [{name: all, match: {}, move: [{to: STANDARD_IA, after: 7d}]}]
"""


@pytest.fixture
def base(tmp_path: Path) -> TieringConfig:
    return load(tmp_path, BASE)


def load(folder: Path, text: str) -> TieringConfig:
    path = folder / "tiering.yaml"
    path.write_text(text)
    return load_config(path)


def test_changes_of_the_same_file_are_none(base: TieringConfig, tmp_path: Path) -> None:
    """Reading a file twice changes nothing."""
    assert changes(base, load(tmp_path, BASE)) == []


def test_changes_name_settings_and_never_values(base: TieringConfig, tmp_path: Path) -> None:
    """Names are paths in the file; those of servers and sockets need a restart."""
    text = BASE.replace("hunter2", "hunter3").replace("7d", "8d") + "daemon: {port: 1, shutdown_grace: 1s}\n"
    names = changes(base, load(tmp_path, text))
    assert names == ["tiers.hot.url", "policies", "daemon.port", "daemon.shutdown_grace"]
    assert needing_restart(names) == ["tiers.hot.url", "daemon.port"]
