"""The deployments of the repository are valid without asking a network, fit the daemon, and agree with each other."""

from __future__ import annotations

import configparser
import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from shutil import which
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sagaz_tiering.config.load import load_with_warnings
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.costs.prices import minimum_durations

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy" / "kubernetes" / "base"
OVERLAYS = sorted(path.parent for path in (ROOT / "deploy" / "kubernetes" / "overlays").glob("*/kustomization.yaml"))
NOT_OF_KUBERNETES = {"Kustomization", "ServiceMonitor"}
KEPT_SAFE = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
PART = {"app.kubernetes.io/part-of": "sagaz-tiering"}


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    """Every manifest in it."""
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "tiering.yaml":
            yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


@pytest.fixture
def manifests() -> dict[str, Any]:
    """Of the base, by kind."""
    return {each["kind"]: each for each in documents(BASE)}


def configuration(path: Path, monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> TieringConfig:
    """What a deployment's file and environment say; nothing in it is doubtful."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    loaded, warnings = load_with_warnings(path, minimum_durations)
    assert warnings == []
    return loaded


def is_valid(manifest: dict[str, Any]) -> None:
    """By the schemas of Kubernetes, strictly: an unknown field is refused."""
    if manifest["kind"] not in NOT_OF_KUBERNETES:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_manifests_are_valid() -> None:
    """Each file of the base and of the overlays."""
    folders = [BASE, *OVERLAYS]
    assert len(folders) > 2
    for each in (each for folder in folders for each in documents(folder)):
        is_valid(each)
    with pytest.raises(kubernetes_validate.ValidationError):
        is_valid({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"portz": []}})


def test_kustomizations_name_every_file_beside_them() -> None:
    """And no other."""
    for folder in [BASE, *OVERLAYS]:
        made = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {name for name in made["resources"] if not name.startswith("..")}
        named |= {each["path"] for each in made.get("patches", ())}
        for generator in (*made.get("configMapGenerator", ()), *made.get("secretGenerator", ())):
            named |= {*generator.get("files", ()), *generator.get("envs", ())}
        assert named == {path.name for path in folder.iterdir()} - {"kustomization.yaml"}


@pytest.mark.skipif(which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_overlays_are_built_into_valid_manifests(overlay: Path) -> None:
    """As `kubectl apply -k` would; the pods get the configuration, and are what selectors mean."""
    built = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    found = list(yaml.safe_load_all(built.stdout))
    for each in found:
        is_valid(each)
    by_kind = {each["kind"]: each for each in found}
    assert {
        "Deployment",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ServiceAccount",
        "Job",
        "ConfigMap",
    } <= by_kind.keys()
    volumes = by_kind["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert by_kind["ConfigMap"]["metadata"]["name"] in {each.get("configMap", {}).get("name") for each in volumes}


def test_kubernetes_agrees_with_its_configuration(manifests: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration loads, the probes ask the port that is listened on, and the grace is long enough."""
    secrets = (ROOT / "deploy/kubernetes/overlays/s3-keys/secrets.env").read_text().split()
    config = configuration(BASE / "tiering.yaml", monkeypatch, dict(each.split("=", 1) for each in secrets))
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": config.daemon.port}]
    assert manifests["Service"]["spec"]["ports"][0]["port"] == config.daemon.port
    assert manifests["NetworkPolicy"]["spec"]["ingress"] == [
        {"ports": [{"port": config.daemon.port, "protocol": "TCP"}]}
    ]
    assert config.daemon.host == "0.0.0.0"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert timedelta(seconds=pod["terminationGracePeriodSeconds"]) > config.daemon.shutdown_grace
    assert config.catalog.url.get_secret_value().startswith("postgresql://sagaz:change-me@")


def test_pods_are_locked_down_and_found_by_their_selectors(manifests: dict[str, Any]) -> None:
    """Daemon and migration: not root, nothing writable, no token; budget, service and network policy mean them."""
    for kind in ("Deployment", "Job"):
        template = manifests[kind]["spec"]["template"]
        assert PART.items() <= template["metadata"]["labels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert template["spec"]["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
        assert [each["securityContext"] for each in template["spec"]["containers"]] == [KEPT_SAFE]
    assert manifests["ServiceAccount"]["automountServiceAccountToken"] is False
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert manifests["Service"]["spec"]["selector"].items() <= labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == PART
    (monitor,) = (each for each in documents(OVERLAYS[0]) if each["kind"] == "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= manifests["Service"]["metadata"]["labels"].items()


def test_compose_file_is_valid_and_agrees_with_what_it_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the schema of compose files; every file that it mounts exists, its servers are those of the configuration."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**compose, "services": {"daemon": {"replica": 2}}}, schema)
    services = compose["services"]
    mounts = [each for service in services.values() for each in service.get("volumes", ()) if each.startswith("./")]
    assert len(mounts) > 5
    assert [each for each in mounts if not (ROOT / each.split(":")[0]).is_file()] == []
    daemon = services["daemon"]
    config = configuration(ROOT / "deploy" / "compose" / "tiering.yaml", monkeypatch, daemon["environment"])
    hosts = (config.tiers.hot.url, config.catalog.url)
    assert (
        {str(each.get_secret_value()).partition("://")[2].split("@")[-1].split("/")[0].split(":")[0] for each in hosts}
        == {"redis", "postgres"}
        <= services.keys()
    )
    assert (daemon["deploy"]["replicas"], config.daemon.host) == (2, "0.0.0.0")
    assert timedelta(seconds=int(daemon["stop_grace_period"].rstrip("s"))) > config.daemon.shutdown_grace
    scraped = yaml.safe_load((ROOT / "deploy/compose/prometheus.yaml").read_text())["scrape_configs"][0]
    assert scraped["dns_sd_configs"] == [{"names": ["daemon"], "type": "A", "port": config.daemon.port}]


def test_systemd_unit_waits_longer_than_the_daemon() -> None:
    """The unit does not kill what the daemon still waits for, and does not limit the wait for the servers."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case
    unit.read(ROOT / "systemd" / "sagaz-tiering.service")
    service, fields = unit["Service"], TieringConfig.model_fields
    assert timedelta(seconds=int(service["TimeoutStopSec"])) > fields["daemon"].default.shutdown_grace
    assert service["TimeoutStartSec"] == "infinity"
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert int(service["Nice"]) == fields["jobs"].default.nice


@pytest.mark.skipif(which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_unit_exposes_little() -> None:
    """What `systemd-analyze security` counts: 10 is everything, and 2 is called OK."""
    unit = str(ROOT / "systemd" / "sagaz-tiering.service")
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if "not supported" in ran.stderr or "Failed to" in ran.stderr:
        pytest.skip(ran.stderr.strip())
    assert ran.returncode == 0, ran.stdout[-400:]
