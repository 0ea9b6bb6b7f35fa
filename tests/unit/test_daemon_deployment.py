"""The deployment examples fit the daemon."""

from __future__ import annotations

import configparser
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sagaz_tiering.config.load import load_with_warnings
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.costs import minimum_durations

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manifests() -> dict[str, Any]:
    text = (ROOT / "config" / "kubernetes.yaml").read_text()
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


@pytest.fixture
def config(manifests: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TieringConfig:
    path = tmp_path / "tiering.yaml"
    path.write_text(manifests["ConfigMap"]["data"]["tiering.yaml"])
    for name, value in manifests["Secret"]["stringData"].items():
        monkeypatch.setenv(name, value)
    loaded, warnings = load_with_warnings(path, minimum_durations)
    assert warnings == []
    return loaded


def test_kubernetes_example_agrees_with_its_configuration(manifests: dict[str, Any], config: TieringConfig) -> None:
    """The configuration loads, the probes ask the port that is listened on, and the grace is long enough."""
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": config.daemon.port}]
    assert config.daemon.host == "0.0.0.0"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert timedelta(seconds=pod["terminationGracePeriodSeconds"]) > config.daemon.shutdown_grace
    assert config.catalog.url.get_secret_value().startswith("postgresql://sagaz:change-me@")


def test_systemd_unit_waits_longer_than_the_daemon(config: TieringConfig) -> None:
    """The unit does not kill what the daemon still waits for, and does not limit the wait for the servers."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case
    unit.read(ROOT / "systemd" / "sagaz-tiering.service")
    service = unit["Service"]
    assert timedelta(seconds=int(service["TimeoutStopSec"])) > type(config.daemon)().shutdown_grace
    assert service["TimeoutStartSec"] == "infinity"
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert int(service["Nice"]) == type(config.jobs)().nice
