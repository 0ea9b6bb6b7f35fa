"""What traces cost a save and a read, in processor time by turns: hooks cut out, no provider, a provider.

python benchmarks/traces.py [--rounds 15] [--calls 400]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from by_turns import OURS, Target, Work, compare

from sagaz_tiering import SagaSnapshot, TieredSnapshotStorage
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.drivers import traces
from sagaz_tiering.embedded import EmbeddedServers
from sagaz_tiering.storage import reporting

CONTEXT = {f"key {number}": "value " * 8 for number in range(100)}
WITHOUT, TRACED = "hooks cut out", "with a provider"


def snapshot() -> SagaSnapshot:
    """One of a new saga, of some 5 KB."""
    return SagaSnapshot.create(
        saga_id=uuid4(),
        saga_name="orders",
        step_name="pay",
        step_index=0,
        status="executing",
        context=CONTEXT,
        completed_steps=[],
    )


@contextmanager
def hooks_cut_out() -> Iterator[None]:
    """Saves and reads as they were before there were traces."""

    def enter(self: Any) -> None:
        self._began = time.perf_counter()

    kept = [(cls, cls.__enter__) for cls in (reporting.reported_save, reporting.measured_read)]
    for cls, _ in kept:
        cls.__enter__ = enter  # type: ignore[method-assign]  # for the length of a turn
    try:
        yield
    finally:
        for cls, before in kept:
            cls.__enter__ = before  # type: ignore[method-assign]  # as it was


@contextmanager
def provider() -> Iterator[None]:
    """OpenTelemetry's SDK without an exporter: spans are made, and dropped."""
    from opentelemetry.sdk.trace import TracerProvider

    traces.tracer = TracerProvider().get_tracer("benchmark")
    try:
        yield
    finally:
        traces.tracer = None


@contextmanager
def as_it_is() -> Iterator[None]:
    """No provider."""
    yield


def turns(work: Callable[[int], Awaitable[None]], calls: int) -> dict[str, Callable[[], Awaitable[float]]]:
    """The contenders; milliseconds of processor time a call, which a busy machine harms least."""

    def turn(how: Callable[[], Any]) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            with how():
                began = time.process_time()
                for number in range(calls):
                    await work(number)
                return (time.process_time() - began) / calls * 1e3

        return run

    return {OURS: turn(as_it_is), WITHOUT: turn(hooks_cut_out), TRACED: turn(provider)}


async def main(rounds: int, calls: int) -> None:
    """Saves to Redis alone and reads by id, on servers that it starts."""
    with TemporaryDirectory(prefix="sagaz-tiering-traces-", ignore_cleanup_errors=True) as folder:
        async with EmbeddedServers.start(Path(folder), durable=False, s3=False) as servers:
            config = TieringConfig.model_validate(
                {
                    "tiers": {"hot": {"url": servers.redis_url}, "cold": {"url": Path(folder, "cold").as_uri()}},
                    "catalog": {"url": servers.postgres_url},
                    "policies": [{"name": "all", "match": {}, "durability": "hot", "retain": "forever"}],
                }
            )
            from sagaz_tiering.app.runtime import open_runtime
            from sagaz_tiering.catalog.migrations import migrate

            async with open_runtime(config) as runtime:
                await migrate(runtime.db)
            async with TieredSnapshotStorage.from_config(config) as storage:
                known = snapshot()
                await storage.save_snapshot(known)

                async def save(_: int) -> None:
                    await storage.save_snapshot(snapshot())

                async def read(_: int) -> None:
                    await storage.get_snapshot(known.snapshot_id)

                targets = [Target(other=WITHOUT, times=1.02)]
                works = [
                    Work(name=name, unit="ms", contenders=turns(work, calls), targets=targets)
                    for name, work in (("save to Redis", save), ("get by id", read))
                ]
                for outcome in await compare(works, rounds, print):
                    medians = outcome.to_dict()["medians"]
                    told = ", ".join(f"{name} {value:.4f} ms" for name, value in medians.items())
                    print(f"{outcome.work.name}: {told}")
                    print(f"  off costs {outcome.ratio(WITHOUT):.3f} of the time without hooks (wanted: <= 1.02)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=400)
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.calls))
