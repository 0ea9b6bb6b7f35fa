"""The container image: built by `make image`, and the daemon runs in it as nobody in particular."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.daemon_process import DEADLINE_S, POLL_S
from support.s3_server import free_port
from support.yaml_config import write_config

ROOT = Path(__file__).parents[2]
IMAGE = "sagaz-tiering:latest"
BASE = "docker.io/library/python:3.11-slim"
CONFIG = "/etc/sagaz-tiering/tiering.yaml"
CERTIFICATES = "/etc/ssl/certs:/etc/ssl/certs:ro"
"""Those of this machine, in case it trusts more than the base does."""
ENVIRONMENT = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
"""A test may itself run in a container."""


def buildah(*arguments: str, seconds: float = 60.0) -> str:
    """What the command says; fails with what it complains of."""
    command = ("buildah", *arguments)
    ran = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A working container of the image, built anew."""
    if shutil.which("buildah") is None or os.getuid() != 0:
        pytest.skip("needs buildah, as root")
    try:
        buildah("pull", "--policy", "missing", BASE)
    except (AssertionError, subprocess.TimeoutExpired):
        pytest.skip(f"needs the image {BASE}, or a registry that has it")
    built = subprocess.run(
        (ROOT / "tools" / "image", "--volume", CERTIFICATES),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-5000:]
    assert built.stdout.splitlines()[-1].startswith("sagaz-tiering ")
    made = buildah("from", IMAGE)
    yield made
    buildah("rm", made)


async def answers(port: int, path: str) -> int | None:
    """Status of the daemon's endpoint; None: nobody listens."""
    try:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status
    except aiohttp.ClientConnectionError:
        return None


def _pid_of(said: Path) -> int:
    """The daemon's own process, by its log."""
    events = [json.loads(line) for line in said.read_text().splitlines() if line.startswith("{")]
    (pid,) = (event["pid"] for event in events if event["event"] == "daemon.started")
    assert b"sagaz-tiering" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return int(pid)


async def test_daemon_of_the_image_runs_as_an_ordinary_user(
    container: str, database: str, redis_url: str, tmp_path: Path
) -> None:
    """Ready on real servers, healthy by the image's own check, nothing of it writable, and over at SIGTERM."""
    image: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    assert image["User"] == "10001"
    assert image["Healthcheck"]["Test"][0] == "CMD"
    port = free_port()
    cold = tmp_path / "cold"
    cold.mkdir()
    cold.chmod(0o777)
    config = write_config(
        tmp_path / "tiering.yaml", database=database, redis_url=redis_url, cold="/cold", daemon={"port": port}
    )
    config.chmod(0o644)
    mounts = ("--volume", f"{config}:{CONFIG}:ro", "--volume", f"{cold}:/cold:rw")
    run = ("buildah", "run", "--user", image["User"], *mounts, container, "--")
    said = tmp_path / "said"
    with said.open("wb") as log:
        daemon = await asyncio.create_subprocess_exec(
            *run, *image["Entrypoint"], *image["Cmd"], env=ENVIRONMENT, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(DEADLINE_S):
            while await answers(port, "/readyz") != 200:
                assert daemon.returncode is None, said.read_text()
                await asyncio.sleep(POLL_S)
        check = [part.replace(":9464/", f":{port}/") for part in image["Healthcheck"]["Test"][1:]]
        buildah(*run[1:], *check)
        writable = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' -not -path '/cold*'"
        assert set(buildah(*run[1:], "sh", "-c", f"{writable} 2>/dev/null; true").split()) <= {
            "/tmp",
            "/var/tmp",
            "/run/lock",
        }
        os.kill(_pid_of(said), signal.SIGTERM)  # buildah itself passes no signal on
        async with asyncio.timeout(DEADLINE_S):
            assert await daemon.wait() == 0, said.read_text()
    finally:
        if daemon.returncode is None:
            daemon.kill()
            await daemon.wait()
