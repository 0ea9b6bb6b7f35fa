"""`restore`, `restores` and `cancel-restore`: bring archived snapshots back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from sagaz_tiering.cli.commands.find import FiltersButTier, check_one_way, sagas_meant
from sagaz_tiering.cli.options import Paging, Text, Texts, WhoOption, YesOption, argument, flag, option, words_of
from sagaz_tiering.cli.parsing import MATCH_KEYS, parse_id, parse_match, parse_time
from sagaz_tiering.cli.session import NO_DAEMON, Answer, Call, command, fields, listed, table
from sagaz_tiering.cli.stderr import NotFound, UsageError, confirm, login_name
from sagaz_tiering.terminal import show_usd, show_when

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.catalog.restores import Restore

POLL_S = 2.0
_TIER = "Expedited, Standard or Bulk. Default: restore.tier."
_NOBODY_ASKS = f"{NO_DAEMON}, or once: sagaz-tiering job restore --once"
ENDED = ("READY", "DONE", "CANCELLED", "FAILED")


@command()
async def restore(
    call: Call,
    saga_ids: Annotated[Texts, argument("[SAGA_ID]...")] = None,
    snapshots: Annotated[Texts, option("ID", "Only this snapshot (repeatable).", "--snapshot")] = None,
    match: Annotated[Texts, option("KEY=PATTERN", f"{', '.join(MATCH_KEYS)} (repeatable).")] = None,
    after: Annotated[Text, option("TIME", "Created at or after.")] = None,
    before: Annotated[Text, option("TIME", "Created at or before.")] = None,
    tier: Annotated[Text, option("", _TIER, completes=words_of("catalog.restores", "RETRIEVALS"))] = None,
    days: Annotated[int | None, option("", "How long. Default: restore.days.", min=1)] = None,
    into: Annotated[str, option("", "hot: back to Redis, pinned; in-place: read from S3.")] = "hot",
    wait: Annotated[bool, flag("--wait", "Until it is ready (a daemon must run).")] = False,
    who: WhoOption = None,
    yes: YesOption = False,
    *,
    filters: FiltersButTier,
) -> Answer:
    """Ask for archived snapshots to come back. Everything is meant that meets all that is given."""
    from sagaz_tiering.catalog.restores import Wanted

    if saga_ids:
        check_one_way(saga_ids, filters)
    wanted = Wanted(
        saga_ids=[parse_id(text, "SAGA_ID") for text in saga_ids] if saga_ids else None,
        snapshot_ids=[parse_id(text, "--snapshot") for text in snapshots] if snapshots else None,
        match=parse_match(match) if match else None,
        after=None if after is None else parse_time(after),
        before=None if before is None else parse_time(before),
    )
    if wanted == Wanted() and not filters:
        raise UsageError("say what to restore", hint="a SAGA_ID, --snapshot ID, --attribute, --match or --after …")
    async with call.opened() as runtime:
        if filters:
            meant = await sagas_meant(runtime.storage(), filters)
            if len(meant) > 1:
                question = f"ask for {len(meant):,} sagas? what S3 is asked for is billed"
                await confirm(question, yes=yes, as_json=call.as_json)
            wanted = replace(wanted, saga_ids=[one.saga_id for one in meant])
        request = runtime.storage().restorer.request
        found = await request(wanted, tier=tier, days=days, into=into, who=who or login_name())
        if found is None:
            raise NotFound("nothing of that is in a pack", hint="what is in Redis needs no restore")
        seen = found.state in ENDED or await _is_daemon_seen(runtime)
        if wait:
            if not seen:
                print(f"warning: {_NOBODY_ASKS}", file=sys.stderr, flush=True)
            found = await _wait(runtime, found)
        now = runtime.clock.now()
    lines = chain(_lines(found, now), () if seen or wait else (_NOBODY_ASKS,))
    return Answer(found.to_dict(), lines, 1 if found.state == "FAILED" else 0)


@command()
async def restores(
    call: Call,
    restore_id: Annotated[Text, argument("[RESTORE_ID]")] = None,
    *,
    page: Annotated[Paging, Paging.up_to(20)],
) -> Answer:
    """The newest restores and how far they are, or one of them."""
    if restore_id is not None:
        call.refuse("limit", "cursor", why="is of the list, which has no RESTORE_ID")
    async with call.opened() as runtime:
        store, now = runtime.catalog.restores, runtime.clock.now()
        if restore_id is not None:
            one = await store.get(parse_id(restore_id, "RESTORE_ID"))
            if one is None:
                raise NotFound(f"no restore {restore_id}", hint="see: sagaz-tiering restores")
            seen = one.state in ENDED or await _is_daemon_seen(runtime)
            return Answer(one.to_dict(), chain(_lines(one, now), () if seen else (_NOBODY_ASKS,)))
        newest = await store.newest(page.limit + 1, page.behind_time(UUID))
    found, following = page.cut_by_time(newest, lambda each: (each.requested_at, each.restore_id))
    columns = ("restore", "state", "snapshots>", "packs", "tier", "into", "requested", "by")
    rows = [
        [
            *(one.restore_id, one.state, one.snapshot_count, _packs(one), one.retrieval),
            *("hot" if one.into_hot else "in-place", show_when(one.requested_at, now), one.requested_by),
        ]
        for one in found
    ]
    shown = table(columns, rows, nothing="no restores", spare=("into", "by", "tier", "requested"))
    return listed("restores", found, following, shown)


@command()
async def cancel_restore(call: Call, restore_id: Annotated[str, argument("RESTORE_ID")]) -> Answer:
    """End a restore; what it brought back ages again. What S3 was asked for is billed all the same."""
    wanted = parse_id(restore_id, "RESTORE_ID")
    async with call.opened() as runtime:
        if not await runtime.catalog.restores.cancel(wanted, runtime.clock.now()):
            raise NotFound(f"no restore {wanted} is under way", hint="see: sagaz-tiering restores")
    return Answer({"restore_id": str(wanted), "state": "CANCELLED"}, [f"cancelled {wanted}"])


async def _is_daemon_seen(runtime: Runtime) -> bool:
    from sagaz_tiering.operations.status import upcoming

    return (await upcoming(runtime.job_context()))[1]


async def _wait(runtime: Runtime, found: Restore) -> Restore:
    """Poll until it has ended; a moving line on a terminal."""
    import asyncio

    restore_id: UUID = found.restore_id
    while found.state not in ENDED:
        if sys.stderr.isatty():
            when = show_when(found.eta_at, runtime.clock.now())
            print(f"\r{found.state}: packs {_packs(found)}; expected {when}   ", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(POLL_S)
        found = await runtime.catalog.restores.get(restore_id) or found
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return found


def _packs(found: Restore) -> str:
    return ", ".join(f"{count} {state.lower()}" for state, count in sorted(found.packs.items()))


def _lines(found: Restore, now: datetime) -> Iterator[str]:
    rows = [
        ("restore", found.restore_id),
        ("state", found.state),
        ("snapshots", f"{found.snapshot_count:,}"),
        ("packs", _packs(found)),
        ("tier", f"{found.retrieval}, {found.days} days, {'into hot' if found.into_hot else 'in place'}"),
        ("expected", show_when(found.eta_at, now) if found.state == "RESTORING" else None),
        ("ready", show_when(found.ready_at, now)),
        ("readable until", show_when(found.readable_until, now)),
        ("cost", show_usd(found.cost_usd)),
        *(("waiting" if ": waits: " in error else "failed", error) for error in found.errors),
    ]
    return fields(rows, width=16)
