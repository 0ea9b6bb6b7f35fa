"""Sagas: found by what people know of them, their timeline, any state of it, the difference between two."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.codec.changes import ChangeKind, ValueChange
from sagaz_tiering.codec.document import snapshot_document
from sagaz_tiering.console.documents import Documents
from sagaz_tiering.console.routes import Asked, BadQuestion, ConsoleView, NotThere, Parameter
from sagaz_tiering.snapshot import SagaSnapshot, Tier
from sagaz_tiering.terminal import plain, show_value
from sagaz_tiering.tiered.compare import Comparer

SAGA_ID: Final = Parameter(name="saga_id", about="id of the saga", kind="uuid", required=True)
_PAGE: Final = 50
_MOST_GUESSED: Final = 8
_MOST_CHANGES: Final = 1_000
_MOST_VALUE: Final = 1_000


async def _sagas(documents: Documents, asked: Asked) -> dict[str, Any]:
    known = [each.name for each in documents.runtime().settings.attributes]
    return {"attributes": known, "found": await documents.part(lambda: _found(documents, asked, known))}


async def _found(documents: Documents, asked: Asked, known: Sequence[str]) -> dict[str, Any]:
    text = (asked["q"] or "").strip()
    filters = _filters(asked)
    if not text:
        return await _page(documents, filters, asked)
    if (saga_id := _as_uuid(text)) is not None:
        there, _ = await documents.refs(saga_id)
        return {"sagas": [], "saga_id": str(saga_id) if there else None, "next": None}
    name, equals, value = text.partition("=")
    if equals and name in known:
        return await _page(documents, {**filters, "attributes": {**filters["attributes"], name: value}}, asked)
    by_name = {**filters, "saga_name": text if set(text) & set("*?[") else f"*{text}*"}
    if asked["cursor"] is not None:  # of a search by name: those by a value go on as `attribute`
        return await _page(documents, by_name, asked)
    by_value = {
        name: await _page(documents, {**filters, "attributes": {**filters["attributes"], name: text}}, asked)
        for name in known[:_MOST_GUESSED]
    }
    found = {saga["saga_id"]: saga for page in by_value.values() for saga in page["sagas"]}
    if not found:
        return await _page(documents, by_name, asked)
    sagas = sorted(found.values(), key=lambda saga: saga["first_at"], reverse=True)
    there_are_more = [f"{name}={text}" for name, page in by_value.items() if page["next"] is not None]
    return {"sagas": sagas, "next": None, "more_by": there_are_more}


async def _page(documents: Documents, filters: dict[str, Any], asked: Asked) -> dict[str, Any]:
    given = {name: value for name, value in filters.items() if value not in (None, {}, ())}
    page = await documents.runtime().storage().find(**given, limit=asked["limit"], cursor=asked["cursor"])
    return {"sagas": plain(list(page.items)), "next": page.cursor}


def _filters(asked: Asked) -> dict[str, Any]:
    attributes: dict[str, str] = {}
    for pair in (asked["attribute"] or "").split(","):
        name, equals, value = pair.partition("=")
        if pair and not equals:
            raise BadQuestion("attribute must be NAME=VALUE, several with commas between them")
        if pair:
            attributes[name.strip()] = value.strip()
    since, until = asked["since"], asked["until"]
    created = None if since is None and until is None else (since, until)
    return {
        "saga_name": asked["name"],
        "status": asked["status"],
        "step": asked["step"],
        "created": created,
        "attributes": attributes,
        "tier": asked["tier"],
        "held": asked["held"] or None,
    }


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


async def _saga(documents: Documents, asked: Asked) -> dict[str, Any]:
    found = await documents.saga(asked["saga_id"])
    if found is None:
        raise NotThere(f"no snapshots of saga {asked['saga_id']}: it never saved one here, or all have expired")
    refs = found["snapshots"]
    number = _chosen(refs, asked["n"], asked["at"])
    state = {} if number is None else await _state(documents, refs[number])
    return {**found, "chosen": number, **state}


def _chosen(refs: Sequence[dict[str, Any]], number: int | None, at: datetime | None) -> int | None:
    """Which snapshot is looked at: by its number, or the newest at an instant (None: the saga had not begun)."""
    if at is not None:
        before = [i for i, ref in enumerate(refs) if datetime.fromisoformat(ref["created_at"]) <= at]
        return before[-1] if before else None
    return len(refs) - 1 if number is None else min(number, len(refs) - 1)


async def _snapshot(documents: Documents, asked: Asked) -> dict[str, Any]:
    refs, _ = await documents.refs(asked["saga_id"])
    if not refs:
        raise NotThere(f"no snapshots of saga {asked['saga_id']}")
    number = _chosen(refs, asked["n"], None)
    assert number is not None  # there is one
    return {"saga_id": str(asked["saga_id"]), "chosen": number, **await _state(documents, refs[number])}


async def _state(documents: Documents, ref: dict[str, Any]) -> dict[str, Any]:
    """What a snapshot says; of an archived one how to bring it back, without asking the store for its bytes."""
    kept: list[SagaSnapshot] = []

    async def read() -> dict[str, Any] | None:
        found = await documents.runtime().storage().reader.get(UUID(ref["snapshot_id"]))
        if found is None:
            return None
        kept.append(found)
        return await asyncio.to_thread(snapshot_document, found)

    part = await documents.part(read, is_plain=True)
    return {"ref": ref, "snapshot": part, "_context": kept[0].context if kept else None}


async def _difference(documents: Documents, asked: Asked) -> dict[str, Any]:
    refs, _ = await documents.refs(asked["saga_id"])
    if not refs:
        raise NotThere(f"no snapshots of saga {asked['saga_id']}")
    last = len(refs) - 1
    a = max(0, last - 1) if asked["a"] is None else min(asked["a"], last)
    b = last if asked["b"] is None else min(asked["b"], last)
    ids = [UUID(refs[number]["snapshot_id"]) for number in (a, b)]
    found = await documents.part(lambda: _compared(documents, asked["saga_id"], *ids))
    return {"saga_id": str(asked["saga_id"]), "snapshots": refs, "a": a, "b": b, "difference": found}


async def _compared(documents: Documents, saga_id: UUID, a: UUID, b: UUID) -> dict[str, Any]:
    found = await Comparer(documents.runtime().storage().reader).diff(saga_id, a, b, saga_id)
    return {"changes": [_change(each) for each in found.changes[:_MOST_CHANGES]], "count": len(found.changes)}


def _change(change: ValueChange) -> dict[str, Any]:
    """Values as text, cut where they are long; `diff --json` has them whole."""
    old, new = (show_value(value, _MOST_VALUE) for value in (change.old, change.new))
    kind = change.kind
    return {
        "change": kind.value,
        "path": change.path[:_MOST_VALUE],
        "before": None if kind is ChangeKind.ADDED else old,
        "after": None if kind is ChangeKind.REMOVED else new,
    }


_NUMBER: Final = Parameter(name="n", about="number of the snapshot in the timeline, the oldest is 0", kind="int")

SAGA_VIEWS: Final = (
    ConsoleView(
        path="/sagas",
        title="Sagas",
        template="sagas.html",
        about="Sagas by what is known of them, the newest first.",
        command="sagaz-tiering find",
        document=_sagas,
        parameters=(
            Parameter(name="q", about="a saga's id, a value of one of its attributes, or a part of its name"),
            Parameter(name="name", about="pattern of the saga's name"),
            Parameter(name="status", about="status of its newest snapshot"),
            Parameter(name="step", about="step of its newest snapshot"),
            Parameter(name="since", about="begun at or after this", kind="time"),
            Parameter(name="until", about="begun before this", kind="time"),
            Parameter(name="attribute", about="NAME=VALUE, several with commas"),
            Parameter(name="tier", about="with a snapshot there", choices=tuple(tier.value for tier in Tier)),
            Parameter(name="held", about="only those under a legal hold", kind="flag", default=False),
            Parameter(name="limit", about="so many", kind="int", default=_PAGE, least=1, most=500),
            Parameter(name="cursor", about="`next` of the page before"),
        ),
    ),
    ConsoleView(
        path="/sagas/{saga_id}",
        title="Saga",
        template="saga.html",
        about="A saga's timeline across the tiers, its state at any instant, and what happens to it.",
        command="sagaz-tiering timeline {saga_id}",
        document=_saga,
        parameters=(SAGA_ID, _NUMBER, Parameter(name="at", about="its state at this instant", kind="time")),
    ),
    ConsoleView(
        path="/sagas/{saga_id}/state",
        title="State",
        template="state.html",
        about="One snapshot of a saga.",
        command="sagaz-tiering show SNAPSHOT_ID",
        document=_snapshot,
        parameters=(SAGA_ID, _NUMBER),
        is_fragment=True,
    ),
    ConsoleView(
        path="/sagas/{saga_id}/diff",
        title="Difference",
        template="diff.html",
        about="What changed between two snapshots of a saga.",
        command="sagaz-tiering diff {saga_id} A B",
        document=_difference,
        parameters=(
            SAGA_ID,
            Parameter(name="a", about="number of the one snapshot", kind="int"),
            Parameter(name="b", about="number of the other", kind="int"),
        ),
    ),
)
