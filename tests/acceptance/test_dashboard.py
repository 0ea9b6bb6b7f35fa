"""The dashboard over a living store: a real Prometheus scrapes a daemon and an application; every panel has data."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import which
from typing import Any

import aiohttp
import pytest
from support.commands import cli
from support.daemon_process import DEADLINE_S, daemon
from support.s3_server import free_port
from support.servers import server_folder

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"

needs_prometheus = pytest.mark.skipif(
    which("prometheus") is None, reason="no prometheus here: apt-get install prometheus"
)

APPLICATION = """
import asyncio, sys
from uuid import uuid4
from prometheus_client import start_http_server
from sagaz_tiering import SagaSnapshot, TieredSnapshotStorage, metrics

async def main(config, port):
    start_http_server(int(port), "127.0.0.1", registry=metrics.REGISTRY)
    async with TieredSnapshotStorage.from_config(config) as storage:
        while True:
            taken = SagaSnapshot.create(
                saga_id=uuid4(), saga_name="orders", step_name="pay", step_index=0, status="completed",
                context={"a": 1}, completed_steps=[],
            )
            await storage.save_snapshot(taken)
            await storage.get_snapshot(taken.snapshot_id)
            await asyncio.sleep(0.1)

asyncio.run(main(*sys.argv[1:]))
"""


@needs_prometheus
async def test_every_panel_has_data_over_the_store_of_the_demonstration() -> None:
    """The store that `demo` leaves, a daemon that runs its jobs, an application that saves and reads."""
    with server_folder() as folder:
        kept, port = folder / "kept", free_port()
        shown = await cli("demo", "--sagas", "24", "--keep", kept)
        assert shown.code == 0, shown.err
        [config] = kept.glob("*.yaml")
        environ = {
            "SAGAZ_TIERING_DAEMON__PORT": str(port),
            "SAGAZ_TIERING_LOG__FORMAT": "json",
            **{f"SAGAZ_TIERING_SCHEDULE__{job}__EVERY": "3s" for job in ("AGE", "EXPIRE", "SCRUB", "TRANSITION")},
        }
        async with daemon(folder, config, **environ) as process:
            await process.ready()
            application = free_port()
            async with (
                running(sys.executable, "-c", APPLICATION, str(config), str(application)),
                prometheus(folder, port, application) as ask,
            ):
                await until_all_have_data(ask)


async def until_all_have_data(ask: Prometheus) -> None:
    """Fails with the titles of the panels that stay empty."""
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel.get("targets")]
    assert len(panels) > 20
    empty = {panel["title"]: panel for panel in panels}
    try:
        async with asyncio.timeout(DEADLINE_S):
            while empty:
                await asyncio.sleep(1)
                for panel in list(empty.values()):
                    if any([await ask(target["expr"]) for target in panel["targets"]]):
                        del empty[panel["title"]]
    except TimeoutError:
        pytest.fail(f"no data in: {', '.join(empty)}")


class Prometheus:
    """One that runs."""

    def __init__(self, http: aiohttp.ClientSession, port: int) -> None:
        self._http, self._url = http, f"http://127.0.0.1:{port}/api/v1/query"

    async def __call__(self, query: str) -> bool:
        """Whether the query has a number for an answer."""
        try:
            async with self._http.get(self._url, params={"query": query}) as answer:
                said: dict[str, Any] = await answer.json()
        except aiohttp.ClientError:  # it is starting
            return False
        assert said["status"] == "success", said
        return any(not math.isnan(float(each["value"][1])) for each in said["data"]["result"])


@asynccontextmanager
async def prometheus(folder: Path, *targets: int) -> AsyncIterator[Prometheus]:
    """It scrapes these ports every second."""
    port = free_port()
    config = folder / "prometheus.yml"
    scraped = [f"127.0.0.1:{each}" for each in targets]
    jobs = [{"job_name": "sagaz-tiering", "static_configs": [{"targets": scraped}]}]
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    command = [
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'series'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
    ]
    async with running(*command), aiohttp.ClientSession() as http:
        yield Prometheus(http, port)


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[None]:
    """A process for the length of the block."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        yield
        assert process.returncode is None, f"{command[0]} ended by itself"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
