"""What a storage does with values that would not come back equal: refuse them, or keep their text and tell so."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Literal, TypeAlias

from sagaz_tiering import metrics
from sagaz_tiering.codec.typed_json import Replacing, Shape, private_copy, shape_of
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.logs import Logger, Repeated
from sagaz_tiering.snapshot import SagaSnapshot

_log = Logger(__name__)
_MOST_SHOWN = 5

OnUnsupported: TypeAlias = Literal["refuse", "text"]


class Texts:
    """Texts in place of values, for one storage. Each replaced value is counted, each type told once in a while."""

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._told = Repeated()

    async def instead(self, snapshot: SagaSnapshot, max_bytes: int) -> SagaSnapshot:
        """The snapshot with texts where its context could not be stored; a large one is worked on by a thread.

        What is certainly longer than `max_bytes` is left for the encoder to refuse.
        """
        context, work = snapshot.context, Replacing()
        if shape_of(context) is Shape.LARGE:
            found = await asyncio.to_thread(work.replace, private_copy(context, max_bytes))
        else:
            found = work.replace(context)
        if not work.types or type(found) is not dict:
            return snapshot
        metrics.STORED_AS_TEXT.labels(storage=self._storage).inc(sum(work.types.values()))
        shown = dict(sorted(work.types.items())[:_MOST_SHOWN])
        times = self._told.due(tuple(shown))
        if times is not None:
            _log.warning(
                "snapshot.stored_as_text",
                storage=self._storage,
                types=shown,
                snapshot_id=str(snapshot.snapshot_id),
                saga_id=str(snapshot.saga_id),
                hint="these values come back as text; see 'What a context may hold' in the documentation",
                **times,
            )
        return replace(snapshot, context=found)


def texts_for(on_unsupported: str, storage: str) -> Texts | None:
    """What the option means; None: refuse. Raises ConfigError."""
    if on_unsupported not in ("refuse", "text"):
        raise ConfigError(f"on_unsupported must be 'refuse' or 'text', not {on_unsupported!r:.80}")
    return Texts(storage) if on_unsupported == "text" else None
