"""A snapshot as the JSON that people and programs are shown. Pure."""

from __future__ import annotations

from typing import Any

from sagaz_tiering.codec.typed_json import tag
from sagaz_tiering.snapshot import SagaSnapshot


def snapshot_document(snapshot: SagaSnapshot) -> dict[str, Any]:
    """A stored snapshot as JSON values; what JSON does not know is tagged (`{"~decimal": "1.50"}`)."""
    typed = ("context", "completed_steps", "external_refs")
    return {**snapshot.to_dict(), **{name: tag(getattr(snapshot, name)) for name in typed}}
