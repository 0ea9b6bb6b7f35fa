"""Sagas: found by what people know of them, their timeline, any state of it, the difference between two."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any, Final, cast
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.changes import ChangeKind, ValueChange, snapshot_document
from sagaz_tiering.console.documents import Documents, timeline_page
from sagaz_tiering.console.render import Node, tree_of
from sagaz_tiering.console.routes import Asked, BadQuestion, NotThere, Parameter, id_of, there, view
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef, Tier
from sagaz_tiering.terminal import plain, show_value
from sagaz_tiering.tiered.compare import WHY_NONE
from sagaz_tiering.tiered.compare import diff as compared_by
from sagaz_tiering.tiered.find import SagaFilters

SAGA_ID: Final = id_of("saga")
LOOK_AT: Final = 500
"""Sagas of one page that are looked at, where few of them are meant: nobody waits for more."""
_MOST_GUESSED: Final = 8
_MOST_CHANGES: Final = 1_000
_MOST_VALUE: Final = 1_000
_MOST_TREES: Final = 50
_TREE_NODES: Final = 100


_WHICH: Final = (
    SAGA_ID,
    Parameter("n", "number of the snapshot in the timeline, the oldest is 0", "int"),
    Parameter("at", "its state at this instant", "time"),
    Parameter("ms", "the same in milliseconds since 1970", "int", most=2**48),
)
_TWO: Final = (
    SAGA_ID,
    Parameter("a", "number of the one snapshot", "int"),
    Parameter("b", "number of the other", "int"),
)


def _find_command(filters: Mapping[str, Any], asked: Asked) -> str:
    """`find` by these filters: the page of it that is shown."""
    begun = zip(("from", "until"), filters["created"] or (None, None), strict=True)
    given = {
        "name": filters["saga_name"],
        **{name: filters[name] for name in ("status", "step", "tier")},
        **{name: None if at is None else at.isoformat().replace("+00:00", "Z") for name, at in begun},
    }
    options = [
        *(f"--{name} {quote(value)}" for name, value in given.items() if value),
        *(f"--attribute {quote(f'{name}={value}')}" for name, value in filters["attributes"].items()),
        *(["--held"] if filters["held"] else []),
        f"--limit {asked['limit']}",
        *([] if asked["cursor"] is None else [f"--cursor {quote(asked['cursor'])}"]),
    ]
    return " ".join(["sagaz-tiering find", *options])


def _diff_command(asked: Asked, found: Mapping[str, Any]) -> str:
    a, b = (found["compared"][side]["snapshot_id"] for side in ("a", "b"))
    return f"sagaz-tiering diff {asked['saga_id']} {a} {b}"


@view(
    "/sagas",
    "Sagas",
    lambda _, found: str(found["_command"]),
    [
        Parameter("q", "a saga's id, a value of one of its attributes, or a part of its name"),
        Parameter("name", "pattern of the saga's name"),
        Parameter("status", "status of its newest snapshot"),
        Parameter("step", "step of its newest snapshot"),
        Parameter("since", "begun at or after this", "time"),
        Parameter("until", "begun before this", "time"),
        Parameter("attribute", "NAME=VALUE, several with commas"),
        Parameter("tier", "with a snapshot there", choices=tuple(tier.value for tier in Tier)),
        Parameter("held", "only those under a legal hold", "flag", default=False),
        Parameter("limit", "so many", "int", default=30, least=1, most=500),
        Parameter("cursor", "`next` of the page before"),
    ],
)
async def sagas(documents: Documents, asked: Asked) -> dict[str, Any]:
    """Sagas by what is known of them, the newest first."""
    known = [each.name for each in documents.runtime().settings.attributes]
    commands: list[str] = []
    found = await documents.part(lambda: _found(documents, asked, known, commands))
    return {"attributes": known, "found": found, "_command": "; ".join(commands)}


async def _found(documents: Documents, asked: Asked, known: Sequence[str], commands: list[str]) -> dict[str, Any]:
    """`commands`: what finds the same is added to it."""
    text = (asked["q"] or "").strip()
    filters = _filters(asked)

    async def page(filters: dict[str, Any]) -> dict[str, Any]:
        commands.append(_find_command(filters, asked))
        return await _page(documents, filters, asked)

    def by(name: str, value: str) -> dict[str, Any]:
        return {**filters, "attributes": {**filters["attributes"], name: value}}

    if not text:
        return await page(filters)
    if (saga_id := _as_uuid(text)) is not None:
        commands.append(f"sagaz-tiering timeline {saga_id}")
        there = await documents.refs(saga_id)
        return {"sagas": [], "saga_id": str(saga_id) if there else None, "next": None}
    name, equals, value = text.partition("=")
    if equals and name in known:
        return await page(by(name, value))
    by_name = {**filters, "saga_name": text if set(text) & set("*?[") else f"*{text}*"}
    if asked["cursor"] is not None:  # of a search by name: those by a value go on as `attribute`
        return await page(by_name)
    by_value = {name: await _page(documents, by(name, text), asked) for name in known[:_MOST_GUESSED]}
    found = {saga["saga_id"]: saga for one in by_value.values() for saga in one["sagas"]}
    if not found:
        return await page(by_name)
    commands += [_find_command(by(name, text), asked) for name, one in by_value.items() if one["sagas"]]
    sagas = sorted(found.values(), key=lambda saga: saga["first_at"], reverse=True)
    there_are_more = [f"{name}={text}" for name, one in by_value.items() if one["next"] is not None]
    return {"sagas": sagas, "next": None, "more_by": there_are_more}


async def _page(documents: Documents, filters: dict[str, Any], asked: Asked) -> dict[str, Any]:
    given = cast(SagaFilters, {name: value for name, value in filters.items() if value not in (None, {}, ())})
    look_at = max(LOOK_AT, asked["limit"])
    finder = documents.storage.finder
    page = await finder.page(given, limit=asked["limit"], cursor=asked["cursor"], look_at=look_at)
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
    return {
        "saga_name": asked["name"],
        **{name: asked[name] for name in ("status", "step", "tier")},
        "created": None if since is None and until is None else (since, until),
        "attributes": attributes,
        "held": asked["held"] or None,
    }


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


@view("/sagas/{saga_id}", "Saga", "sagaz-tiering timeline {saga_id}", _WHICH)
async def saga(documents: Documents, asked: Asked) -> dict[str, Any]:
    """A saga's timeline across the tiers, its state at any instant, and what happens to it."""
    refs = there(await documents.refs(asked["saga_id"]), f"no snapshots of saga {asked['saga_id']}: {WHY_NONE}")
    number = _chosen(refs, asked)
    found = await documents.saga(asked["saga_id"], refs, number or 0)
    if number is None or refs[number].tier is Tier.COLD:  # what may have to come from the store comes later
        return {**found, "chosen": number, "snapshot": None, "later": number is not None}
    return {**found, **await _state(documents, refs, number), "later": False}


def _chosen(refs: Sequence[SnapshotRef], asked: Asked) -> int | None:
    """Which snapshot is looked at: by instant (None: there is none of then), by number, or the newest."""
    if asked["at"] is None and asked["ms"] is None:
        return len(refs) - 1 if asked["n"] is None else min(asked["n"], len(refs) - 1)
    at_us = asked["ms"] * 1000 if asked["at"] is None else to_micros(asked["at"])
    before = [i for i, ref in enumerate(refs) if to_micros(ref.created_at) <= at_us]
    return before[-1] if before else None


@view(
    "/sagas/{saga_id}/state",
    "State",
    lambda _, found: f"sagaz-tiering show {found['ref']['snapshot_id']}",
    _WHICH,
    is_fragment=True,
)
async def state(documents: Documents, asked: Asked) -> dict[str, Any]:
    """What a saga was like at one of its snapshots; of what is archived, how to bring it back."""
    refs = there(await documents.refs(asked["saga_id"]), f"no snapshots of saga {asked['saga_id']}")
    number = _chosen(refs, asked)
    if number is None:
        raise NotThere("the saga had not begun then, or its snapshots of then have expired")
    return {"saga_id": str(asked["saga_id"]), **await _state(documents, refs, number)}


async def _state(documents: Documents, refs: Sequence[SnapshotRef], number: int) -> dict[str, Any]:
    """What a snapshot says; of an archived one how to bring it back, without asking the store for its bytes."""
    kept: list[SagaSnapshot] = []
    ref = refs[number]

    async def read() -> dict[str, Any] | None:
        found = await documents.storage.reader.get(ref.snapshot_id)
        if found is None:
            return None
        kept.append(found)
        return await asyncio.to_thread(snapshot_document, found)

    part = await documents.part(read, is_plain=True)
    page = timeline_page(refs, number)
    return {
        "chosen": number,
        "last": len(refs) - 1,
        "ref": ref.to_dict(),
        "snapshot": part,
        "_tree": tree_of(kept[0].context) if kept else None,
        "_shown": (page["earlier"], page["earlier"] + len(page["snapshots"]) - 1),
    }


@view("/sagas/{saga_id}/diff", "Difference", _diff_command, _TWO)
async def diff(documents: Documents, asked: Asked) -> dict[str, Any]:
    """Two snapshots of a saga, chosen to be compared."""
    return await _compared(documents, asked)


async def _compared(documents: Documents, asked: Asked) -> dict[str, Any]:
    refs = there(await documents.refs(asked["saga_id"]), f"no snapshots of saga {asked['saga_id']}")
    last = len(refs) - 1
    a = max(0, last - 1) if asked["a"] is None else min(asked["a"], last)
    b = last if asked["b"] is None else min(asked["b"], last)
    pages = {side: timeline_page(refs, number) for side, number in (("a", a), ("b", b))}
    return {
        "saga_id": str(asked["saga_id"]),
        **pages["b"],
        "a": a,
        "b": b,
        "compared": {"a": refs[a].to_dict(), "b": refs[b].to_dict()},
        "_pages": pages,
    }


@view("/sagas/{saga_id}/changes", "Changes", _diff_command, _TWO, is_fragment=True)
async def changes(documents: Documents, asked: Asked) -> dict[str, Any]:
    """What changed between two snapshots of a saga."""
    found = await _compared(documents, asked)
    a, b = [UUID(found["compared"][side]["snapshot_id"]) for side in ("a", "b")]
    trees: list[tuple[Node | None, Node | None]] = []

    async def compared() -> dict[str, Any]:
        saga_id, reader = asked["saga_id"], documents.storage.reader
        both = await compared_by(reader, saga_id, a, b, saga_id)
        trees.extend(map(_trees, both.changes[:_MOST_TREES]))
        return {"changes": [_change(each) for each in both.changes[:_MOST_CHANGES]], "count": len(both.changes)}

    return {**found, "difference": await documents.part(compared), "_trees": trees}


def _trees(change: ValueChange) -> tuple[Node | None, Node | None]:
    """Both sides as trees, where they are more than a single value."""
    sides = [tree_of(value, "", most=_TREE_NODES) for value in (change.before, change.after)]
    before, after = [side if side.children else None for side in sides]
    return before, after


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


SAGA_VIEWS: Final = (sagas, saga, state, diff, changes)
