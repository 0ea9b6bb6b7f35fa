"""`replay`: resume a failed saga from a snapshot, and look at what a saga's state was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.commands.snapshot import place_of
from sagaz_tiering.cli.options import MOST, Paging, SagaArgument, Text, Texts, flag, option
from sagaz_tiering.cli.parsing import parse_id, parse_time
from sagaz_tiering.cli.session import Answer, Call, command, fields, more
from sagaz_tiering.cli.stderr import NotFound, UsageError, login_name
from sagaz_tiering.terminal import make_table, plain, show_time

if TYPE_CHECKING:
    from uuid import UUID

    from sagaz_tiering.snapshot import SagaSnapshot
    from sagaz_tiering.storage.base import SnapshotStorage

group = typer.Typer(name="replay", help="Resume sagas from snapshots, and look at their past.", no_args_is_help=True)

_STORAGE = "A storage other than the configuration's: redis://, postgresql://, s3://, file://."
_MAKER = "What makes the saga: a function (of its name or of nothing, sync or async) or a Saga class."
_OVERRIDE = "Replace a key of the context; VALUE is JSON, else text."
StorageOption = Annotated[Text, option("URL", _STORAGE, "--storage", "-s")]


@command(group, "run")
async def run(
    call: Call,
    saga_id: SagaArgument,
    from_step: Annotated[str, option("STEP", "Resume from this step's snapshot.")],
    saga: Annotated[Text, option("MODULE:NAME", _MAKER)] = None,
    override: Annotated[Texts, option("KEY=VALUE", _OVERRIDE, "--override", "-o")] = None,
    override_file: Annotated[Path | None, option("FILE", "A JSON object of keys to replace.")] = None,
    initiated_by: Annotated[Text, option("WHO", "For the replay log. Default: the login name.")] = None,
    dry_run: Annotated[bool, option("", "Check the snapshot, execute nothing.", "--dry-run", "-d")] = False,
    storage: StorageOption = None,
) -> Answer:
    """Resume a saga from a step, with a corrected context. It becomes a saga with an id of its own."""
    from sagaz_tiering.sagaz_engine.replay import load_factory, replay

    wanted, changes = parse_id(saga_id, "SAGA_ID"), _overrides(override or [], override_file)
    if saga is None and not dry_run:
        raise UsageError("--saga is needed to execute", hint="--saga shop.sagas:make_saga, or --dry-run")
    factory = None if saga is None else load_factory(saga)
    async with call.opened_storage(storage) as opened:
        who = initiated_by or login_name()
        result = await replay(
            opened, wanted, from_step, factory=factory, override=changes, initiated_by=who, dry_run=dry_run
        )
    document = {**result.to_dict(), "dry_run": dry_run}
    return Answer(document, _fields(document), 0 if document["replay_status"] == "success" else 1)


@command(group, "time-travel")
async def time_travel(
    call: Call,
    saga_id: SagaArgument,
    at: Annotated[str, option("TIME", "Like 2026-03-01T12:00:00Z, or a day.", "--at", "-t")],
    key: Annotated[Text, option("KEY", "Only this key of the context.", "--key", "-k")] = None,
    storage: StorageOption = None,
) -> Answer:
    """What a saga's state was at an instant. The newest snapshot at or before it."""
    wanted, moment = parse_id(saga_id, "SAGA_ID"), parse_time(at)
    async with call.opened_storage(storage) as opened:
        found = await opened.get_snapshot_at_time(wanted, moment)
    if found is None:
        hint = "it began later, or what was there has expired"
        raise NotFound(f"no snapshot of saga {wanted} at or before {moment.isoformat()}", hint=hint)
    from sagaz_tiering.codec.changes import snapshot_document

    document: Any = snapshot_document(found)
    if key is not None:
        if key not in document["context"]:
            raise NotFound(f"the context has no key {key!r}", hint=f"it has: {', '.join(document['context'])}")
        document = document["context"][key]
    return Answer(document, pretty=True)


@command(group, "list-changes")
async def list_changes(
    call: Call,
    saga_id: SagaArgument,
    after: Annotated[Text, option("TIME", "Only from TIME on.", "--after", "-a")] = None,
    before: Annotated[Text, option("TIME", "Only up to TIME.", "--before", "-b")] = None,
    *,
    page: Annotated[Paging, Paging.up_to(100)],
    keys: Annotated[bool, flag("--keys", "Also which keys of the context changed; this reads the bodies.")] = False,
    storage: StorageOption = None,
) -> Answer:
    """Every state a saga was in, oldest first. Without --keys it needs no archived bytes."""
    wanted = parse_id(saga_id, "SAGA_ID")
    since, until = (None if text is None else parse_time(text) for text in (after, before))
    async with call.opened_storage(storage) as opened:
        found = await _states(opened, wanted, since, until, keys=keys)
    states, following = page.of(found, itemgetter("snapshot_id"))
    if not states:
        raise NotFound(f"no snapshots of saga {wanted} in that time", hint="it has none, or all have expired")
    document = {"saga_id": str(wanted), "changes": states, "next": following}
    return Answer(document, chain(_table(wanted, list(states[0]), states), more(following)))


@command(group, "history")
async def history(
    call: Call, saga_id: SagaArgument, *, page: Annotated[Paging, Paging.up_to(100)], storage: StorageOption = None
) -> Answer:
    """Replays of a saga, newest first. From which step, by whom, with what, and how they ended."""
    wanted = parse_id(saga_id, "SAGA_ID")
    async with call.opened_storage(storage) as opened:
        found = await opened.list_replays(wanted, MOST)
    records, following = page.of(found, itemgetter("replay_id"))
    if not records and not call.as_json:
        raise NotFound(f"saga {wanted} was never replayed")
    names = ("created_at", "checkpoint_step", "replay_status", "initiated_by", "new_saga_id", "error_message")
    document = {"saga_id": str(wanted), "replays": records, "next": following}
    return Answer(document, chain(_table(wanted, names, records), more(following)))


def _table(saga_id: UUID, names: Sequence[str], records: Sequence[dict[str, Any]]) -> Iterator[Any]:
    rows = [[_cell(record[name]) for name in names] for record in records]
    yield make_table([name.replace("_", " ") for name in names], rows, title=f"saga {saga_id}")


def _overrides(pairs: list[str], file: Path | None) -> dict[str, Any]:
    """What the options ask to replace; a pair wins over the file. Raises UsageError."""
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise UsageError(f"--override-file {file}: {exc}") from exc
        if type(found) is not dict:
            raise UsageError(f"--override-file {file} holds a {type(found).__name__}, not a JSON object")
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise UsageError(f"--override {pair!r:.80} is not KEY=VALUE", hint="for example: --override amount=12.5")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


async def _states(
    storage: SnapshotStorage, saga_id: UUID, after: datetime | None, before: datetime | None, *, keys: bool
) -> list[dict[str, Any]]:
    timeline = getattr(storage, "timeline", None)
    if timeline is not None and not keys:
        refs = [ref for ref in await timeline(saga_id) if _within(ref.created_at, after, before)]
        return [{**_state(ref), "tier": place_of(ref)} for ref in refs]
    found: list[dict[str, Any]] = []
    earlier: dict[str, Any] = {}
    async for snapshot in storage.iter_snapshots(saga_id):
        if _within(snapshot.created_at, after, before):
            changed = {"changed": _changed(earlier, snapshot.context)} if keys else {}
            found.append({**_state(snapshot), **changed})
        earlier = snapshot.context
    return found


def _state(of: SagaSnapshot | Any) -> dict[str, Any]:
    names = ("created_at", "step_index", "step_name", "status", "snapshot_id")
    return {name: plain(getattr(of, name)) for name in names}


def _changed(earlier: dict[str, Any], context: dict[str, Any]) -> list[str]:
    """Keys that were added (+), removed (-) or changed (~)."""
    from sagaz_tiering.codec.changes import changes
    from sagaz_tiering.codec.typed_json import tag

    added = [f"+{key}" for key in context if key not in earlier]
    both = [key for key in context if key in earlier]
    changed = [f"~{key}" for key in both if changes(tag(earlier[key]), tag(context[key]))]
    return [*added, *changed, *(f"-{key}" for key in earlier if key not in context)]


def _within(moment: datetime, after: datetime | None, before: datetime | None) -> bool:
    return (after is None or moment >= after) and (before is None or moment <= before)


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _fields(document: dict[str, Any]) -> Iterator[str]:
    rows = (
        (name.replace("_", " "), show_time(datetime.fromisoformat(value)) if value and name.endswith("_at") else value)
        for name, value in document.items()
    )
    return fields(rows, width=18)
