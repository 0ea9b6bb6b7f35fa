"""Transition: packs move in place to the class that their policy asks for.

Write order per pack: a readable copy of the footer (before an archive class), COPY in place, HEAD, then the row.
A crash after any step leaves the pack readable or archived exactly as the store says; the next run repeats the
rest, since every step is idempotent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.surveys import group_of
from sagaz_tiering.costs.economics import Cost, judge_pack, transition_cost
from sagaz_tiering.errors import (
    BucketUnusable,
    ColdTierUnavailable,
    CorruptPack,
    ObjectArchived,
    ObjectNotFound,
    ObjectStoreError,
)
from sagaz_tiering.jobs.context import JobContext, Tally, pages
from sagaz_tiering.jobs.ownership import put_policies_in_force, still_owner
from sagaz_tiering.jobs.pack_objects import keep_footer_readable, vouched
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.packs.reader import PackReader, attributes_key, footer_key
from sagaz_tiering.policy import UNMATCHED, Move, Policy, PolicySet
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)
_PAGE = 100
_ODD_IN_A_ROW = 3
"""So many packs one after the other that the store answers oddly are no fault of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Packs of `policy` whose youngest snapshot is from before `youngest_before` are to make this move."""

    policy: Policy
    move: Move
    youngest_before: datetime
    settled: tuple[StorageClass, ...]


def plan(policies: PolicySet, now: datetime) -> Iterator[Rule]:
    """The moves that could be due, the coldest of each policy first, so that no pack moves twice in a run. Pure."""
    for policy in policies.policies:
        for move in reversed(policy.move):
            settled = tuple(c for c in StorageClass if c.coldness >= move.to.coldness)
            yield Rule(policy=policy, move=move, youngest_before=now - move.after, settled=settled)


async def preview(context: JobContext, tally: Tally) -> None:
    """Count the packs that a run would move, and those that it would ask for first."""
    async for rule, pack in _planned(context, tally):
        try:
            if await _is_readable(context, pack, rule.move.to, tally, ask=False):
                _moved(pack, tally)
                tally.note(f"{pack.object_key}: {pack.storage_class} -> {rule.move.to}")
        except ObjectNotFound as exc:
            tally.failed(pack.object_key, exc)


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Move every pack that is due."""
    await put_policies_in_force(context)
    odd = 0
    async for rule, pack in _planned(context, tally):
        if context.stopping.is_set():
            return
        try:
            await _move_or_follow(context, lease, pack, rule.move.to, tally)
        except BucketUnusable:
            raise  # that is everybody's
        except (ObjectStoreError, CorruptPack, ColdTierUnavailable) as exc:
            # One bad pack must not keep the others warm; it stays as it is and is named.
            odd = 0 if isinstance(exc, ObjectNotFound | CorruptPack) else odd + 1
            tally.failed(pack.object_key, exc)
            key = pack.object_key
            _log.error("pack.not_moved", pack_id=pack.pack_id, object_key=key, error=str(exc), hint=exc.hint)
            await context.catalog.quarantine.record("pack", key, str(exc), context.now)
            if odd == _ODD_IN_A_ROW:
                raise
            if odd:
                await context.objects.check()
        else:
            odd = 0


async def _move_or_follow(context: JobContext, lease: Lease, pack: Pack, to: StorageClass, tally: Tally) -> None:
    try:
        await _move(context, lease, pack, to, tally)
    except ObjectArchived:
        await _note_class(context, lease, pack, tally)


async def _planned(context: JobContext, tally: Tally) -> AsyncIterator[tuple[Rule, Pack]]:
    """The packs to move, each once: those that are due and for which it pays."""
    seen: set[int] = set()
    async for rule, pack in _due(context, tally):
        if pack.pack_id not in seen and _worth_it(context, rule, pack, tally):
            seen.add(pack.pack_id)
            yield rule, pack


async def _due(context: JobContext, tally: Tally) -> AsyncIterator[tuple[Rule, Pack]]:
    """The packs that could move: by the policy that packed them, or that rules them where there is none of its name."""
    rules, packs = list(plan(context.policies, context.now)), context.catalog.packs
    for rule in rules:
        fetch = partial(packs.movable, [rule.policy.name], False, rule.youngest_before, rule.settled, limit=_PAGE)
        async for pack in _paged(context, fetch):
            yield rule, pack
    if not rules:
        return
    youngest = max(rule.youngest_before for rule in rules)
    settled = min((rule.settled for rule in rules), key=len)
    names = [policy.name for policy in (*context.policies.policies, UNMATCHED)]
    async for pack in _paged(context, partial(packs.movable, names, True, youngest, settled, limit=_PAGE)):
        named = await packs.names(pack.pack_id, context.policies.ruling_attributes)
        ruling = {context.policies.policy_for(*each).name for each in named}
        if len(ruling) > 1:
            tally.add("ruled_by_several")
            tally.note(
                f"{pack.object_key}: policy {pack.policy!r} is gone, and {', '.join(sorted(ruling))} rule it now"
            )
            continue
        for rule in rules:
            is_due = pack.max_clock_at <= rule.youngest_before and pack.storage_class not in rule.settled
            if is_due and rule.policy.name in ruling:
                yield rule, pack
                break


async def _paged(context: JobContext, fetch: Callable[[int], Awaitable[list[Pack]]]) -> AsyncIterator[Pack]:
    """What `fetch` gives behind a pack, a page at a time, without what is in quarantine."""
    async for page in pages(fetch, 0, lambda pack: pack.pack_id):
        alone = await context.catalog.quarantine.left_alone("pack", [pack.object_key for pack in page])
        for pack in page:
            if pack.object_key not in alone:
                yield pack


async def _note_class(context: JobContext, lease: Lease, pack: Pack, tally: Tally) -> None:
    """The object was archived behind our back, by a lifecycle rule say: the catalog follows, the rest goes on."""
    info = await context.objects.head(pack.object_key)
    await context.catalog.packs.moved(pack.pack_id, info.storage_class, lease, context.now)
    tally.add("class_noted")
    tally.note(f"{pack.object_key}: is in {info.storage_class} already, which this product did not do")
    _log.warning("pack.class_noted", object_key=pack.object_key, storage_class=info.storage_class.value)


def _worth_it(context: JobContext, rule: Rule, pack: Pack, tally: Tally) -> bool:
    """Whether moving saves more than it costs; what does not is named, with the figures (guarantee G10)."""
    verdict = judge_pack(context.prices, rule.policy, rule.move, group_of(pack), context.now)
    if verdict.pays or rule.policy.even_if_costlier:
        return True
    tally.add("not_worth_it", note=f"not worth it: {pack.object_key}: {verdict.why}")
    return False


async def _move(context: JobContext, lease: Lease, pack: Pack, to: StorageClass, tally: Tally) -> None:
    if not await _is_readable(context, pack, to, tally, ask=True):
        return
    await context.spend("transition", _cost(context, pack, to))
    if to.is_archive and not pack.storage_class.is_archive:
        pack = await vouched(context, lease, pack, "transition")  # archived, nothing could be compared any more
        footer = await PackReader(context.objects).footer_bytes(pack)
        await keep_footer_readable(context, pack.pack_uuid, footer)
    await still_owner(context)
    await context.objects.change_class(pack.object_key, to)
    info = await context.objects.head(pack.object_key)
    if info.storage_class is not to:
        raise ColdTierUnavailable(f"{pack.object_key}: asked for {to}, the store says {info.storage_class}")
    if await context.catalog.packs.moved(pack.pack_id, to, lease, context.now):
        _moved(pack, tally)
    elif not await context.catalog.packs.live_keys([pack.pack_uuid]):
        # It was deleted while the store copied it, and the copy came after: receipts say already that it is gone.
        await still_owner(context)
        uuid = pack.pack_uuid
        await context.objects.delete([pack.object_key, footer_key(uuid), attributes_key(uuid)])
        tally.add("deleted_meanwhile")


def _moved(pack: Pack, tally: Tally) -> None:
    tally.add("packs")
    tally.add("snapshots", pack.live_count)
    tally.add("bytes", pack.byte_size)


async def _is_readable(context: JobContext, pack: Pack, to: StorageClass, tally: Tally, *, ask: bool) -> bool:
    """From one archive class to another the bytes must be readable first; if they are to, `ask` (Bulk costs least)."""
    if not pack.storage_class.is_archive:
        return True
    info = await context.objects.head(pack.object_key)
    state = info.restore
    if info.storage_class is to or not info.storage_class.is_archive or state is RestoreState.READABLE:
        return True
    if state is RestoreState.NONE and ask:
        state = await context.thaw_pack("transition", pack)
    tally.add("thawing", note=f"{pack.object_key}: being restored ({state}) before it can move to {to}")
    return state is RestoreState.READABLE


def _cost(context: JobContext, pack: Pack, to: StorageClass) -> Cost:
    """What moving a readable (or thawed) pack is billed, early deletion included."""
    prices, size = context.prices, pack.byte_size
    cost, retrieval = transition_cost(prices, pack.storage_class, to, objects=1, total_bytes=size)
    early = prices.early_deletion_usd(pack.storage_class, size, context.now - pack.class_since)
    return cost + Cost(usd=early + (0.0 if pack.storage_class.is_archive else retrieval))
