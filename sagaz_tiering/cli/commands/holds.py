"""`hold`, `release` and `holds`; `forget` and `erasures`: what must stay, what must go everywhere, by whose order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from sagaz_tiering.cli.commands.find import Filters, check_one_way, named, sagas_meant
from sagaz_tiering.cli.options import AnySaga, Paging, Text, Texts, WhoOption, YesOption, argument, flag, option
from sagaz_tiering.cli.parsing import MATCH_KEYS, parse_id, parse_match
from sagaz_tiering.cli.session import NO_DAEMON, Answer, Call, command, fields, listed, show_next_run, table
from sagaz_tiering.cli.stderr import NotFound, UsageError, confirm, login_name
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable, LegalHold
from sagaz_tiering.terminal import counted, document, make_table, safe, show_time, show_when

_FOR_COMPACT = "waits for `compact`"

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.catalog.erasures import ErasedPack, ErasureReceipt
    from sagaz_tiering.catalog.holds import Coverage, Hold
    from sagaz_tiering.config.patterns import Match
    from sagaz_tiering.jobs.times import NextRun
    from sagaz_tiering.tiered.find import SagaFilters
    from sagaz_tiering.tiered.storage import TieredStorage

Orderer = Annotated[Text, option("NAME", "Who orders it. Default: the login name.", "--who")]


@command()
async def hold(
    call: Call,
    saga_id: AnySaga = None,
    reason: Annotated[str, option("TEXT", "The case or order that asks for it.")] = "",
    match: Annotated[
        Texts, option("KEY=PATTERN", f"Instead of a saga: {', '.join(MATCH_KEYS)}; now and later ones.")
    ] = None,
    future: Annotated[bool, flag("--future", "Place it also where nothing is there to hold yet.")] = False,
    who: Orderer = None,
    yes: YesOption = False,
    *,
    filters: Filters,
) -> Answer:
    """Place a legal hold. What it covers neither expires nor can be deleted until it is released.

    By what sagas are found by (--attribute, --name and so on), on each that is found now.
    """
    if not match:
        check_one_way(saga_id, filters)
    elif saga_id is not None or filters:
        raise UsageError("give either a SAGA_ID, what it is found by, or --match", hint="--match saga_name=payment-*")
    if filters:
        later = "--match holds what is still to come too, such as --match saga_name=payment-*"
        call.refuse(
            "future", why="goes with a SAGA_ID or --match: by filters each saga is held that is there now", hint=later
        )
    if not reason.strip():
        raise UsageError("a legal hold needs a reason", hint="--reason TEXT: the case or order that asks for it")
    async with call.opened() as runtime:
        storage, who = runtime.storage(), who or login_name()
        if filters:
            return await _hold_found(call, storage, filters, reason=reason, who=who, yes=yes)
        on = parse_match(match or []) if saga_id is None else parse_id(saga_id, "SAGA_ID")
        if not future and (await _covered(storage, on)).is_nothing:
            raise NotFound(
                "nothing is held: no tier has a snapshot that this hold covers, so it was not placed",
                hint="check the id or the patterns, which are case-sensitive; --future holds what is still to come",
            )
        placed = await storage.holder.hold(on, reason=reason, who=who)
        waits, covered = await storage.publish_journal(), await _covered(storage, on)
    told = {"covers": document(covered, "snapshots"), "in_bucket": not waits, "in_redis": not placed.not_marked}
    return Answer({**placed.to_dict(), **told}, _placed(placed, on, covered, waits))


async def _hold_found(
    call: Call, storage: TieredStorage, filters: SagaFilters, *, reason: str, who: str, yes: bool
) -> Answer:
    """A hold on every saga that is found now, each by its id; later ones are a matter of --match."""
    found = await sagas_meant(storage, filters)
    if len(found) > 1:
        question = f"place a hold on each of {len(found):,} sagas?"
        await confirm(question, yes=yes, as_json=call.as_json, about=named(found))
    placed = [await storage.holder.hold(one.saga_id, reason=reason, who=who) for one in found]
    waits = await storage.publish_journal()
    document = {"holds": placed, "in_bucket": not waits, "in_redis": not any(each.not_marked for each in placed)}
    lines = table(("hold", "subject"), [[each.hold_id, each.saga_id or each.subject] for each in placed], nothing="")
    return Answer(document, chain(lines, [_published(waits)]))


def _placed(placed: Hold, on: UUID | Match, covered: Coverage, waits: str) -> Iterator[str]:
    from sagaz_tiering.config.patterns import ANY, Match

    yield f"held: {safe(placed.subject)}; hold {placed.hold_id}"
    yield f"covers now: {covered}"
    if isinstance(on, Match) and (on.step_name, on.status) != (ANY, ANY):
        yield "of each saga only the snapshots that match; for whole sagas: --match saga_name alone, or SAGA_ID"
    yield _published(waits)
    if placed.not_marked:
        yield (
            "not yet in Redis, where `hot` policies are acknowledged: the next run of any job of a daemon "
            "puts it there, or, when Redis answers: sagaz-tiering job reconcile --once"
        )
        yield f"  {placed.not_marked}"


async def _covered(storage: TieredStorage, on: UUID | Match) -> Coverage:
    """Without Redis nobody can tell all; a hold must not wait for that."""
    from sagaz_tiering.catalog.holds import Coverage

    try:
        return await storage.covered(on)
    except HotTierUnavailable:
        return Coverage(exact=False)


@command()
async def release(
    call: Call,
    wanted: Annotated[str, argument("SAGA_ID|HOLD_ID")],
    reason: Annotated[str, option("TEXT", "Why it may go.")],
    who: Orderer = None,
) -> Answer:
    """End a hold, or every hold that was placed on a saga. By the id of the hold, or of the saga."""
    asked = parse_id(wanted, "SAGA_ID|HOLD_ID")
    async with call.opened() as runtime:
        found = await runtime.catalog.holds.named(asked)
        if not found:
            raise NotFound(f"no hold in force is or is on {asked}", hint="see: sagaz-tiering holds")
        storage = runtime.storage()
        count = await storage.holder.release(found, reason=reason, who=who or login_name())
        waits = await storage.publish_journal()
    lines = [f"released {count}: {'; '.join(safe(h.subject) for h in found)}", _published(waits)]
    return Answer({"released": count, "holds": found, "in_bucket": not waits}, lines)


def _published(waits: str) -> str:
    """Whether the bucket's journal has it, from which it comes back after a loss of PostgreSQL."""
    if waits:
        lost = "so a loss of PostgreSQL would lose it; a daemon writes it there"
        return f"not yet written to the bucket, {lost}: {waits}"
    return "also written to the bucket, so it survives the loss of PostgreSQL"


@command()
async def holds(
    call: Call,
    log: Annotated[bool, flag("--log", "Every hold and release ever, newest first.")] = False,
    *,
    page: Annotated[Paging, Paging.up_to(1000)],
) -> Answer:
    """Holds in force, or the log of all."""
    nothing = "no legal holds"
    async with call.opened() as runtime:
        if log:
            found = await runtime.catalog.holds.entries(page.limit + 1, page.behind_number())
            entries, following = page.cut(found, lambda entry: entry["entry_id"])
            columns = ("at", "action", "who", "reason", "saga_id", "match", "hold_id")
            shown = [column.removesuffix("_id") for column in columns]
            rows = [[show_time(e["at"]), *(e[name] for name in columns[1:])] for e in entries]
            return listed("log", entries, following, table(shown, rows, nothing=nothing))
        in_force, following = await runtime.catalog.holds.page(page.limit, page.cursor)
    titles = ("since", "subject", "by", "reason", "hold")
    held = [[show_time(h.placed_at), h.saga_id or h.subject, h.placed_by, h.reason, h.hold_id] for h in in_force]
    return listed("holds", in_force, following, table(titles, held, nothing=nothing))


@command()
async def forget(
    call: Call,
    saga_id: AnySaga = None,
    *,
    reason: Annotated[str, option("TEXT", "The order or request that asks for it.")],
    yes: YesOption = False,
    who: WhoOption = None,
    filters: Filters,
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
        now, waits = runtime.clock.now(), await storage.publish_journal()
        run = await _next_compact(runtime, receipt)
    if receipt.found_nothing:
        raise _nothing(receipt, earlier)
    lines = chain(_receipt(receipt, now, run), [_published(waits)])
    return Answer({**receipt.to_dict(), "in_bucket": not waits}, lines)


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
    return Answer(document, chain(lines, [_published(waits)]), LegalHold.exit_code if refused else 0, problems)


@command()
async def erasures(
    call: Call,
    erasure_id: Annotated[Text, argument("[ERASURE_ID]")] = None,
    *,
    page: Annotated[Paging, Paging.up_to(20)],
) -> Answer:
    """Receipts of erasures as they stand now. What is physically gone, and what waits for which pack."""
    if erasure_id is not None:
        call.refuse("limit", "cursor", why="is of the list, which has no ERASURE_ID")
    async with call.opened() as runtime:
        store, now = runtime.catalog.erasures, runtime.clock.now()
        if erasure_id is not None:
            one = await store.receipt(parse_id(erasure_id, "ERASURE_ID"))
            if one is None:
                raise NotFound(f"no erasure {erasure_id}", hint="see: sagaz-tiering erasures")
            return Answer(one.to_dict(), _receipt(one, now, await _next_compact(runtime, one)))
        newest = await store.newest(page.limit + 1, page.behind_time(UUID))
    found, following = page.cut_by_time(newest, lambda each: (each.requested_at, each.erasure_id))
    columns = ("erasure", "saga", "requested", "by", "reason", "complete")
    rows = [[o.erasure_id, o.saga_id, show_time(o.requested_at), o.who, o.reason, _in_a_word(o)] for o in found]
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


def _receipt(receipt: ErasureReceipt, now: datetime, run: tuple[NextRun, bool] | None) -> Iterator[Any]:
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
