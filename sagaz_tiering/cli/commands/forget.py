"""`forget` and `erasures`: remove a saga everywhere, and prove it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from sagaz_tiering.cli.asking import confirm, login_name
from sagaz_tiering.cli.commands.hold import published
from sagaz_tiering.cli.failures import NotFound
from sagaz_tiering.cli.filters import check_one_way, filtered, named, sagas_meant
from sagaz_tiering.cli.options import YesOption, parse_id
from sagaz_tiering.cli.paging import CursorOption, LimitOption, at_time, cut, listed, read_time
from sagaz_tiering.cli.session import NO_DAEMON, Answer, Call, command, fields, show_next_run, table
from sagaz_tiering.errors import CatalogUnavailable, LegalHold
from sagaz_tiering.terminal import counted, make_table, show_time, show_when

_FOR_COMPACT = "waits for `compact`"

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.catalog.erasures import ErasedPack, ErasureReceipt
    from sagaz_tiering.jobs.times import NextRun
    from sagaz_tiering.tiered import SagaFilters, TieredStorage


@command()
@filtered()
async def forget(
    call: Call,
    saga_id: Annotated[str | None, typer.Argument(metavar="[SAGA_ID]")] = None,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The order or request that asks for it.")],
    yes: YesOption = False,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the login name.")] = None,
    filters: SagaFilters,
) -> Answer:
    """Erase a saga, or all that the options find, for good. Every snapshot and replay log in every tier."""
    check_one_way(saga_id, filters)
    wanted = None if saga_id is None else parse_id(saga_id, "SAGA_ID")
    order = {"reason": reason, "who": who or login_name()}
    async with call.opened() as runtime:
        storage = runtime.storage()
        if wanted is None:
            return await _forget_found(call, storage, filters, yes=yes, order=order)
        covered = "" if yes or call.as_json else await storage.covered(wanted)
        await confirm(f"erase {covered}, saga {wanted}, for good?", yes=yes, as_json=call.as_json)
        earlier = await runtime.catalog.erasures.of_saga(wanted)
        receipt = await storage.forget(wanted, **order)
        now, waits = runtime.clock.now(), await runtime.storage().publish_journal()
        run = await _next_compact(runtime, receipt)
    if receipt.found_nothing:
        raise _nothing(receipt, earlier)
    return Answer({**receipt.to_dict(), "in_bucket": not waits}, chain(_lines(receipt, now, run), [published(waits)]))


async def _forget_found(
    call: Call, storage: TieredStorage, filters: SagaFilters, *, yes: bool, order: dict[str, str]
) -> Answer:
    """Erase every saga that is found now, one after the other; a legal hold on one keeps that one alone."""
    found = await sagas_meant(storage, filters)
    count = sum(sum(one.snapshots.values()) for one in found)
    question = f"erase {counted(len(found), 'saga')} with {counted(count, 'snapshot')}, for good?"
    await confirm(question, yes=yes, as_json=call.as_json, about=named(found))
    erased: list[ErasureReceipt] = []
    refused: list[tuple[UUID, LegalHold]] = []
    for one in found:
        try:
            erased.append(await storage.forget(one.saga_id, **order))
        except LegalHold as exc:
            refused.append((one.saga_id, exc))
    waits = await storage.publish_journal()
    document = {
        "erased": [receipt.to_dict() for receipt in erased],
        "refused": [{"saga_id": str(saga_id), "error": str(exc)} for saga_id, exc in refused],
        "in_bucket": not waits,
    }
    rows = [[each.erasure_id, each.saga_id, each.snapshots, _in_a_word(each)] for each in erased]
    lines = table(("erasure", "saga", "snapshots>", "complete"), rows, nothing="nothing was erased")
    problems = [(f"saga {saga_id} was not erased: {exc}", exc.hint) for saga_id, exc in refused]
    return Answer(document, chain(lines, [published(waits)]), LegalHold.exit_code if refused else 0, problems)


@command()
async def erasures(
    call: Call,
    erasure_id: Annotated[str | None, typer.Argument(metavar="[ERASURE_ID]")] = None,
    limit: LimitOption = 20,
    cursor: CursorOption = None,
) -> Answer:
    """Receipts of erasures as they stand now. What is physically gone, and what waits for which pack."""
    async with call.opened() as runtime:
        store, now = runtime.catalog.erasures, runtime.clock.now()
        if erasure_id is not None:
            one = await store.receipt(parse_id(erasure_id, "ERASURE_ID"))
            if one is None:
                raise NotFound(f"no erasure {erasure_id}", hint="see: sagaz-tiering erasures")
            return Answer(one.to_dict(), _lines(one, now, await _next_compact(runtime, one)))
        newest = await store.newest(limit + 1, read_time(cursor, UUID))
    found, following = cut(newest, limit, lambda each: at_time(each.requested_at, each.erasure_id))
    columns = ("erasure", "saga", "requested", "by", "reason", "complete")
    rows = [
        [one.erasure_id, one.saga_id, show_time(one.requested_at), one.who, one.reason, _in_a_word(one)]
        for one in found
    ]
    return listed("erasures", found, following, table(columns, rows, nothing="no erasures"))


def _nothing(receipt: ErasureReceipt, earlier: UUID | None) -> NotFound:
    message = f"nothing was erased: no tier knows saga {receipt.saga_id}; the order is recorded as {receipt.erasure_id}"
    if earlier is None:
        return NotFound(message, hint="check the id: a mistyped one erases nothing")
    return NotFound(message, hint=f"it was erased before: sagaz-tiering erasures {earlier}")


async def _next_compact(runtime: Runtime, receipt: ErasureReceipt) -> tuple[NextRun, bool] | None:
    """When the job that packs wait for starts; None where none waits for it alone, or nobody can tell."""
    from sagaz_tiering.operations.status import upcoming

    if _FOR_COMPACT not in map(_pack_state, receipt.packs):
        return None
    with suppress(CatalogUnavailable):  # the receipt is told all the same
        [run], seen = await upcoming(runtime.job_context(), "compact")
        return run, seen
    return None


def _lines(receipt: ErasureReceipt, now: datetime, run: tuple[NextRun, bool] | None) -> Iterator[Any]:
    removed = f"hot {receipt.hot}, durable {receipt.durable}, archived {receipt.archived}, replays {receipt.replays}"
    if receipt.snapshots is not None:
        removed = f"{counted(receipt.snapshots, 'snapshot')}: {removed}"
    rows = (
        ("erasure", receipt.erasure_id),
        ("saga", receipt.saga_id),
        ("ordered by", f"{receipt.who}: {receipt.reason}"),
        ("unreadable since", show_time(receipt.requested_at)),
        ("removed copies", removed),
        *_shredded(receipt),
        ("complete", _complete(receipt)),
        *_following(run, now),
        *_left(receipt),
    )
    yield from fields(rows, width=18)
    if receipt.packs:
        packs = [
            [pack.object_key, pack.storage_class, _pack_state(pack), show_when(pack.gone_at or pack.gone_by, now)]
            for pack in receipt.packs
        ]
        yield make_table(("pack", "class", "state", "when"), packs)


def _complete(receipt: ErasureReceipt) -> str:
    if receipt.complete:
        return "yes, nothing readable is left in Redis and the bucket"
    if receipt.found_nothing:
        return "there was nothing to erase"
    if receipt.hot_done_at is None:
        return "no: Redis was not cleared yet, the job `expire` or `compact` does it"
    waiting = sum(pack.gone_at is None for pack in receipt.packs)
    return f"no: bytes of it are still in {counted(waiting, 'pack')} below"


def _in_a_word(receipt: ErasureReceipt) -> str:
    return "yes" if receipt.complete else "found nothing" if receipt.found_nothing else "no"


def _pack_state(pack: ErasedPack) -> str:
    if pack.gone_at:
        return "gone"
    if pack.gone_by:
        return "rewritten"
    if pack.state == "UPLOADING":
        return "being uploaded: known once it is published, or given up by `collect`"
    if pack.state == "ABANDONED":
        return "an upload that was given up: waits for `collect`"
    return f"waits for restore {pack.restore_id}, then `compact`" if pack.restore_id else _FOR_COMPACT


def _following(run: tuple[NextRun, bool] | None, now: datetime) -> list[tuple[str, str]]:
    """When a daemon gets to it, and how to have it at once."""
    if run is None:
        return []
    following, seen = run
    note = [] if seen else [("note", NO_DAEMON)]
    return [("next run", show_next_run(following, now)), *note, ("sooner", "sagaz-tiering job compact --once")]


def _left(receipt: ErasureReceipt) -> list[tuple[str, str | None]]:
    """What no tier shows any more, but servers may keep."""
    from sagaz_tiering.catalog.erasures import LEFT_IN_POSTGRESQL, VACUUM_COMMAND

    if not receipt.was_in_postgresql:
        return []
    if receipt.vacuumed_at is not None:
        done = f"vacuumed {show_time(receipt.vacuumed_at)}"
    elif receipt.vacuum_refused:
        done = "the catalog's role may not vacuum: its owner must"
    else:
        done = "not yet vacuumed, the job `expire` does it at most once an hour"
    return [("postgresql", done), ("may keep", LEFT_IN_POSTGRESQL), ("command", f'psql -c "{VACUUM_COMMAND}"')]


def _shredded(receipt: ErasureReceipt) -> list[tuple[str, str | None]]:
    if receipt.key_destroyed is None:
        return []
    left = f"bytes of it that nobody can decrypt any more are in {counted(receipt.undecipherable_packs, 'pack')}"
    return [("key destroyed", show_time(receipt.key_destroyed)), ("undecipherable", left)]
