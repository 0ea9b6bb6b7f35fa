"""One incident restored out of GLACIER on an S3 server while the daemon is killed again and again.

    python benchmarks/incident.py --sagas 2000 --incident 200 --kills 8

Exits non-zero if a pack was asked for twice, a snapshot is not readable, or a pin does not hold or end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from kills import daemon, hot_count
from volume import batches

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.payload import saga
from support.s3_server import Answer, Request, ScriptedServer, forward
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.catalog.restores import Wanted
from sagaz_tiering.clock import SystemClock, VirtualClock
from sagaz_tiering.embedded import EmbeddedServers
from sagaz_tiering.jobs import run_job

DAYS = 3


def restores_in(server: ScriptedServer) -> Counter[str]:
    """How often each object was asked for."""
    asked = (request.target.split("?")[0] for request in server.requests if request.method == "POST")
    return Counter(target for target in asked if target.endswith(".pack"))


async def freeze(runtime: Runtime, sagas: int) -> list[list[Any]]:
    """Sagas of five months ago, in packs in GLACIER."""
    begun = runtime.clock.now() - timedelta(days=150)
    saved = [saga(number, begun=begun + timedelta(seconds=number)) for number in range(sagas)]
    for group in batches(saved, 16):
        await asyncio.gather(*(runtime.storage().save_snapshot(one) for of_saga in group for one in of_saga))
    for job in ("age", "transition"):
        print(job, (await run_job(job, runtime.job_context())).counts)
    assert await hot_count(runtime) == 0
    return saved


async def kill_until_ready(runtime: Runtime, settings: Path, folder: Path, restore_id: Any, kills: int) -> None:
    """Daemons that live for a random moment, then one that may finish."""
    chance, log = random.Random(3), folder / "daemon.log"
    for number in range(kills + 1):
        process = await daemon(settings, log)
        seen = set()
        patience = chance.uniform(0.9, 2.2) if number < kills else 120.0
        for _ in range(int(patience / 0.01)):
            found = await runtime.catalog.restores.get(restore_id)
            assert found is not None
            seen |= set(found.packs)
            if found.state != "RESTORING" or process.returncode is not None:
                break
            await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
        print(f"daemon {number + 1} killed; the request is {found.state}, its packs {found.packs}")
        if found.state == "READY":
            return
    raise AssertionError(f"not ready: {found}")


async def main(sagas: int, incident: int, kills: int) -> None:
    """The whole run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o711)
        async with EmbeddedServers.start(folder / "data", bucket="incident") as servers:
            endpoints = servers.endpoints

            async def through(request: Request) -> Answer:
                return await forward(request, str(endpoints.s3_endpoint))

            async with ScriptedServer(through) as proxy:
                settings = write_config(
                    folder / "tiering.yaml",
                    database=str(endpoints.postgres_url),
                    redis_url=str(endpoints.redis_url),
                    cold={
                        "url": "s3://incident/bench",
                        "endpoint_url": proxy.endpoint,
                        "region": "us-east-1",
                        "access_key_id": endpoints.s3_access_key_id,
                        "secret_access_key": endpoints.s3_secret_access_key,
                        "pack": {"target": "256KiB", "max_frame": "256KiB"},
                    },
                    policies=[
                        {
                            "name": "all",
                            "move": [{"to": "STANDARD_IA", "after": "30d"}, {"to": "GLACIER", "after": "90d"}],
                        }
                    ],
                    jobs={"lease_ttl": "1s", "claim_ttl": "2s"},
                    schedule={"restore": {"every": "1s"}},
                    daemon={"port": 0},
                )
                clock = VirtualClock(SystemClock().now())
                async with open_runtime(read_config(settings), clock=clock) as runtime:
                    await migrate(runtime.db)
                    saved = await freeze(runtime, sagas)
                    wanted = random.Random(5).sample(saved, incident)
                    asked = Wanted(saga_ids=[of_saga[0].saga_id for of_saga in wanted])
                    request = await runtime.storage().restorer.request(asked, days=DAYS, who="incident")
                    assert request is not None
                    print(f"restore of {incident} sagas: {request.packs}, ${request.cost_usd:.4f}")
                    await kill_until_ready(runtime, settings, folder, request.restore_id, kills)
                    found = restores_in(proxy)
                    assert set(found.values()) == {1}, found
                    assert len(found) == sum(request.packs.values())
                    for of_saga in wanted:
                        assert await runtime.storage().list_snapshots(of_saga[0].saga_id) == of_saga[::-1]
                    await run_job("age", runtime.job_context())
                    assert await hot_count(runtime) == incident * 5, "a pin did not hold"
                    clock.advance(timedelta(days=DAYS + 1))
                    await run_job("restore", runtime.job_context())
                    report = await run_job("age", runtime.job_context())
                    assert report.counts["evicted"] == incident * 5
                    assert not report.counts.get("packs")
                    assert await hot_count(runtime) == 0
                    print(f"one request for each of {len(found)} packs; all readable, pinned, and aged again once")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sagas", type=int, default=2000)
    parser.add_argument("--incident", type=int, default=200)
    parser.add_argument("--kills", type=int, default=8)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.sagas, arguments.incident, arguments.kills))
