"""Spans of saves, reads, jobs, packs, SQL and S3, as an application with OpenTelemetry's SDK gets them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.payload import saga
from support.s3_server import S3Server
from support.tiers import DAY, NOW, Product, config, product

from sagaz_tiering import InMemorySnapshotStorage
from sagaz_tiering.drivers import traces

PROVIDER = TracerProvider()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What was traced; the provider of a process is set once, so it is the tests' own that is looked at."""
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    PROVIDER.add_span_processor(processor)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: PROVIDER)
    yield exporter
    processor.shutdown()
    monkeypatch.undo()
    traces.follow()


def named(found: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """Finished spans whose names begin so."""
    return [each for each in found.get_finished_spans() if each.name.startswith(name)]


def below(span: ReadableSpan, found: InMemorySpanExporter) -> list[ReadableSpan]:
    """Spans that were opened directly within."""
    return [each for each in found.get_finished_spans() if each.parent and each.parent.span_id == span.context.span_id]


def attributes(spans: Sequence[ReadableSpan], name: str) -> list[object]:
    """One of theirs."""
    return [(span.attributes or {}).get(name) for span in spans]


async def test_walk_through_all_tiers_is_traced(
    spans: InMemorySpanExporter, database: str, redis_url: str, s3_server: S3Server
) -> None:
    """Each part once, named, below what asked for it: a job has its packs and SQL, a pack its requests to S3."""
    saved = saga(1, begun=NOW)
    cold = {
        "url": f"s3://{await s3_server.make_bucket()}/store",
        "endpoint_url": s3_server.endpoint,
        "access_key_id": "testing",
        "secret_access_key": "testing",
        "region": "us-east-1",
    }
    async with product(config(database=database, redis_url=redis_url, cold=cold)) as shop:
        await walk(shop, saved[0].saga_id, saved)
    saves, reads = named(spans, "snapshot.save"), named(spans, "snapshot.read")
    assert attributes(saves, "sagaz_tiering.saga_name") == [each.saga_name for each in saved]
    assert attributes(reads, "sagaz_tiering.tier") == ["hot", "cold"]
    assert attributes(reads, "sagaz_tiering.saga_name") == [saved[-1].saga_name] * 2
    [find] = named(spans, "saga.find")
    assert "sql catalog.find" in " ".join(span.name for span in descendants(find, spans))
    [job] = named(spans, "job age")
    [upload] = named(spans, "pack.upload")
    pack_id = UUID(str((upload.attributes or {})["sagaz_tiering.pack_id"]))
    assert (upload.attributes or {})["sagaz_tiering.storage_class"] == "STANDARD_IA"
    requests = named(spans, "s3 ")
    assert "s3 PutObject" in {span.name for span in requests}
    assert any(str(pack_id) in str(key) for key in attributes(requests, "aws.s3.key"))
    assert upload in descendants(job, spans)
    assert {"s3 PutObject", "s3 HeadObject"} <= {span.name for span in descendants(upload, spans)}
    assert "s3 GetObject" in {span.name for span in descendants(reads[1], spans)}
    assert any(span.name.startswith("sql ") for span in descendants(job, spans))


def descendants(span: ReadableSpan, found: InMemorySpanExporter) -> list[ReadableSpan]:
    """All that is within, however deep."""
    inner = below(span, found)
    return [*inner, *(deeper for each in inner for deeper in descendants(each, found))]


async def walk(shop: Product, saga_id: UUID, saved: list[object]) -> None:
    """Saved, read from Redis, archived, read from the pack."""
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)  # type: ignore[arg-type]  # snapshots
    assert await shop.storage.get_latest_snapshot(saga_id) == saved[-1]
    await shop.storage.find(limit=5)
    shop.clock.advance(14 * DAY)
    await shop.run("age")
    assert await shop.storage.get_latest_snapshot(saga_id) == saved[-1]


async def test_name_that_is_no_text_everywhere_can_be_exported(spans: InMemorySpanExporter) -> None:
    """A lone surrogate is written out: exporters encode as UTF-8."""
    odd = replace(saga(1)[0], saga_name="orders \udcff")
    await InMemorySnapshotStorage().save_snapshot(odd)
    [save] = named(spans, "snapshot.save")
    assert attributes([save], "sagaz_tiering.saga_name") == ["orders \\udcff"]


async def test_error_of_a_save_is_in_its_span(spans: InMemorySpanExporter) -> None:
    """Also of a storage that stands alone."""
    storage = InMemorySnapshotStorage()
    with pytest.raises(Exception, match="not a snapshot"):
        await storage.save_snapshot(object())  # type: ignore[arg-type]  # no snapshot
    [save] = named(spans, "snapshot.save")
    assert save.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in save.events] == ["exception"]


def test_nothing_of_the_api_is_imported_or_called_without_a_provider() -> None:
    """Neither where it is not installed, nor where it is and nobody set one up."""
    script = """
import asyncio, sys
from sagaz_tiering import InMemorySnapshotStorage, SagaSnapshot
from sagaz_tiering.drivers import traces
from uuid import uuid4
async def main():
    storage = InMemorySnapshotStorage()
    about = {"saga_name": "a", "step_name": "b", "step_index": 0, "status": "executing", "completed_steps": []}
    taken = SagaSnapshot.create(saga_id=uuid4(), context={}, **about)
    await storage.save_snapshot(taken)
    assert await storage.get_snapshot(taken.snapshot_id) == taken
asyncio.run(main())
assert traces.tracer is None
print(*(name for name in sys.modules if name.startswith("opentelemetry")))
import opentelemetry.trace
def called(*_, **__): raise AssertionError
opentelemetry.trace.ProxyTracerProvider.get_tracer = called
asyncio.run(main())
assert traces.tracer is None
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == ""
