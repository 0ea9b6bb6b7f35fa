"""Copy the catalog's journal to the bucket: objects `journal/<first entry>-<uuid>.json`, written once, kept."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import orjson
import structlog

from sagaz_tiering.engine.job import JobContext
from sagaz_tiering.engine.ownership import claim_prefix
from sagaz_tiering.errors import CorruptData
from sagaz_tiering.storage_class import StorageClass

PREFIX = "journal/"
_PAGE = 10_000
_KEPT = timedelta(days=30)
_log = structlog.get_logger(__name__)


async def publish_journal(context: JobContext) -> int:
    """Write what the bucket lacks; how many entries. A crash in between writes some once more: no harm."""
    published = 0
    while entries := await context.catalog.journal.unpublished(_PAGE):
        catalog_id = await claim_prefix(context)
        document = {
            "format": 1,
            "catalog_id": str(catalog_id),
            "entries": [{"id": e.entry_id, "at": e.at, "kind": e.kind, "body": e.body} for e in entries],
        }
        data = orjson.dumps(document)
        key = f"{PREFIX}{entries[0].entry_id:020d}-{uuid4()}.json"
        await context.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=hashlib.sha256(data).digest())
        await context.catalog.journal.published([entry.entry_id for entry in entries], context.now)
        published += len(entries)
    await context.catalog.journal.prune(context.now - _KEPT)
    return published


async def read_journal(context: JobContext) -> AsyncIterator[dict[str, Any]]:
    """Every entry in the bucket, oldest first; some may come twice. Raises CorruptData for one that is not ours."""
    async for info in context.objects.list(PREFIX):
        try:
            document = orjson.loads(await context.objects.get(info.key))
            entries = document["entries"] if document["format"] == 1 else None
        except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
            raise CorruptData(f"{info.key} is not a journal: {exc}", hint="restore it from a bucket version") from exc
        if entries is None:
            raise CorruptData(f"{info.key} has a format that this version cannot read", hint="upgrade sagaz-tiering")
        for entry in entries:
            yield entry
