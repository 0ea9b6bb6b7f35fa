"""Restore: make the packs of each request readable, bring its snapshots back to Redis, tell who waits.

Per pack of a request, each step noted only after it is done, so that a crash repeats at most the last one:

    WAITING   -> look (HEAD); ask S3 only if nobody has          -> ASKED
    ASKED     -> look; readable?                                  -> READABLE
    READABLE  -> into Redis: pin, then save what was asked for    -> DONE (in place: at once)

A pin is written before its snapshot goes to Redis, and the age job leaves pinned snapshots alone, so nothing is
evicted between. When nothing is left to wait for the request is READY until its days are over, then DONE: its pins
end, and the age job evicts the copies (their packs hold them all the time).

Who waits is told by a webhook (POST of JSON) or a command (JSON on its stdin).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from uuid import UUID

import orjson

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.restores import HOT_DAYS, AskedSnapshot, Restore
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import to_value
from sagaz_tiering.config.sections import RestoreSettings
from sagaz_tiering.costs.economics import restore_cost
from sagaz_tiering.errors import (
    BudgetSpent,
    CorruptPack,
    ErasedData,
    MasterKeyUnavailable,
    ObjectArchived,
    ObjectStoreError,
)
from sagaz_tiering.jobs.context import JobContext, Tally, each_pack
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo, RestoreState
from sagaz_tiering.packs.attributes import carrying
from sagaz_tiering.packs.reader import PackReader
from sagaz_tiering.policy import SagaEnd

_log = Logger(__name__)
_PAGE = 100
_LOOKS = 3
"""Snapshots of a pack that moved into another while it was read are looked up so often; then the next run goes on."""
_STATES = ("WAITING", "ASKED", "READABLE")
_DEADLINE_S = 30.0
ATTEMPTS = 5
"""So often somebody who cannot be told is told again, a run of the job each."""


async def preview(context: JobContext, tally: Tally) -> None:
    """Count the packs that a run would ask for and bring back, and what would be ready then."""
    restores, copies = context.catalog.restores, dict[int, ObjectInfo]()
    told = len(await restores.unnotified(ATTEMPTS))
    for request in await restores.in_state("RESTORING"):
        tally.add("requests")
        packs = Counter(await _progress(context, request))
        for state in _STATES:
            async for pack in _packs(context, request, state):
                packs[state] -= 1
                packs[await _foreseen(context, request, pack, state, copies, tally)] += 1
        told += _is_over(+packs, tally)
    tally.add("ended", len(await _ended(context)))
    tally.add("notified", told)


async def _foreseen(
    context: JobContext, request: Restore, pack: Pack, state: str, copies: dict[int, ObjectInfo], tally: Tally
) -> str:
    """The state that a run leaves a pack in."""
    if pack.state != "ACTIVE":
        return "DONE"
    try:
        after = state if state == "READABLE" else await _look(context, request, pack, state, tally, copies)
    except ObjectStoreError as exc:
        tally.failed(pack.object_key, exc)
        return "FAILED"
    if after != "READABLE":
        return after
    tally.add("packs_readable")
    if request.into_hot:
        for asked in await context.catalog.restores.places(request.restore_id, pack.pack_id):
            tally.add("erased" if asked.frame.encrypted and asked.frame.key is None else "snapshots")
    return "DONE"


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Move every request on as far as S3 allows now."""
    restores = context.catalog.restores
    for request in await restores.in_state("RESTORING"):
        tally.add("requests")
        for state in _STATES:
            await _work(context, request, state, tally)
            if context.stopping.is_set():
                return
        await _finish(context, request, tally)
    for request in await _ended(context):
        await restores.done(request.restore_id, context.now)
        tally.add("ended")
    await restores.unpin(context.now)
    for request in await restores.unnotified(ATTEMPTS):
        told = await tell(context.settings.restore, request)
        await restores.notified(request.restore_id, context.now if told else None)
        tally.add("notified" if told else "not_notified")


async def _ended(context: JobContext) -> list[Restore]:
    """Requests whose days are over."""
    ready = await context.catalog.restores.in_state("READY")
    return [each for each in ready if each.readable_until is not None and each.readable_until <= context.now]


async def _progress(context: JobContext, request: Restore) -> dict[str, int]:
    """Its packs by state."""
    found = await context.catalog.restores.get(request.restore_id)
    return {} if found is None else found.packs


def _is_over(packs: Mapping[str, int], tally: Tally) -> bool:
    """Whether nothing of a request, whose packs are in these states, is left to wait for; counts what it is then."""
    waiting = sum(count for state, count in packs.items() if state not in ("DONE", "FAILED"))
    tally.add("packs_waiting", waiting)
    if waiting or not packs:
        return False
    tally.add("ready" if "DONE" in packs else "requests_failed")
    return True


async def _work(context: JobContext, request: Restore, state: str, tally: Tally) -> None:
    async for pack in _packs(context, request, state):
        if context.stopping.is_set():
            return
        if pack.state != "ACTIVE":
            # What was in it has expired or was deleted since it was asked for: nothing is left to bring back.
            await context.catalog.restores.set_pack(request.restore_id, pack.pack_id, "DONE")
            continue
        try:
            async with asyncio.timeout(context.settings.jobs.upload_deadline.total_seconds()):
                if state == "READABLE":
                    after = await _bring_back(context, request, pack, tally)
                else:
                    after = await _look(context, request, pack, state, tally)
        except MasterKeyUnavailable as exc:
            # It may be there again for the next run; packs that need no key go on.
            tally.add("packs_waiting_for_key", note=f"{pack.object_key}: {exc}")
            _log.error("pack.waits_for_key", object_key=pack.object_key, error=str(exc), hint=exc.hint)
            continue
        except (ObjectStoreError, CorruptPack) as exc:
            # One bad pack must not keep the others from those who wait; it is named in the request.
            tally.failed(pack.object_key, exc)
            _log.error("pack.not_restored", object_key=pack.object_key, error=str(exc))
            await context.catalog.restores.set_pack(request.restore_id, pack.pack_id, "FAILED", str(exc))
            continue
        except BudgetSpent as exc:
            # Whoever asked sees why it waits, instead of only that it does.
            tally.add("budget_spent", note=f"restore {request.restore_id}: {exc}")
            await context.catalog.restores.set_pack(request.restore_id, pack.pack_id, state, f"waits: {exc}")
            return
        if after != state:
            await context.catalog.restores.set_pack(request.restore_id, pack.pack_id, after)


def _packs(context: JobContext, request: Restore, state: str) -> AsyncIterator[Pack]:
    return each_pack(lambda last: context.catalog.restores.packs(request.restore_id, state, last, _PAGE))


async def _look(
    context: JobContext,
    request: Restore,
    pack: Pack,
    state: str,
    tally: Tally,
    copies: dict[int, ObjectInfo] | None = None,
) -> str:
    """The state of a pack after a look at its object; a copy is asked for where nobody has.

    `copies`: a dry run, and what it would have asked for by then, for other requests too. The store takes its time
    where it is asked for a copy, and none where it is to keep one longer.
    """
    info = (copies or {}).get(pack.pack_id) or await context.objects.head(pack.object_key)
    found, days = _copy(context, request, info), HOT_DAYS if request.into_hot else request.days
    if found is RestoreState.NONE and state == "ASKED":
        return "WAITING"  # the readable copy ran out before we saw it: ask again
    if found is RestoreState.NONE and copies is not None:
        found = RestoreState.IN_PROGRESS if info.restore is RestoreState.NONE else RestoreState.READABLE
        copies[pack.pack_id] = replace(info, restore=found, readable_until=context.now + timedelta(days=days))
        tally.add("packs_asked")
    elif found is RestoreState.NONE:
        prices, tier = context.prices, request.retrieval
        cost = restore_cost(prices, info.storage_class, objects=1, total_bytes=info.size, tier=tier, days=days)
        await context.spend("restore", cost)
        found = await context.objects.restore(pack.object_key, days=days, tier=tier)
        tally.add("packs_asked")
        _log.info("restore.asked", object_key=pack.object_key, restore_id=str(request.restore_id))
    return "READABLE" if found is RestoreState.READABLE else "ASKED"


def _copy(context: JobContext, request: Restore, info: ObjectInfo) -> RestoreState:
    """What of an object can be read now; of a class that is no archive it is the object.

    Readable also means long enough: a copy that another request left behind may be about to go.
    """
    if not info.storage_class.is_archive:
        return RestoreState.READABLE
    needed = context.now + (timedelta(hours=1) if request.into_hot else timedelta(days=request.days) / 2)
    is_short = (
        info.restore is RestoreState.READABLE and info.readable_until is not None and info.readable_until < needed
    )
    return RestoreState.NONE if is_short else info.restore


async def _bring_back(context: JobContext, request: Restore, pack: Pack, tally: Tally) -> str:
    tally.add("packs_readable")
    if not request.into_hot:
        return "DONE"
    until = context.now + timedelta(days=request.days)
    back: set[UUID] = set()
    changes = (await context.catalog.hot_tier.look()).changes
    for _ in range(_LOOKS):
        places = await context.catalog.restores.places(request.restore_id, pack.pack_id)
        left = [place for place in places if place.snapshot_id not in back]
        if not left:
            # A Redis that lost what it was just given is reconciled by what is DONE by then.
            same = (await context.catalog.hot_tier.look()).changes == changes
            return "DONE" if same else "READABLE"
        for frame, group in groupby(left, key=lambda asked: asked.frame):
            of_frame, thawed = list(group), pack.storage_class.is_archive
            await context.spend_reads("restore", pack.storage_class, size=frame.length, must=thawed)
            try:
                saved = await _rehydrate(context, of_frame, until)
            except ObjectArchived:
                return "WAITING"
            except ErasedData as exc:
                tally.add("erased", len(of_frame), note=f"{pack.object_key}: saga {of_frame[0].saga_id}: {exc}")
                saved = {place.snapshot_id for place in of_frame}
            else:
                tally.add("snapshots", len(saved))
            back |= saved
    return "READABLE"


async def _rehydrate(context: JobContext, asked: Sequence[AskedSnapshot], until: datetime) -> set[UUID]:
    """Pin the asked snapshots of one frame, then save them to Redis as they were saved then; which.

    Those that were deleted since, or are in another frame by now (another version, perhaps), are left out.
    """
    wanted, first, frame = sorted(each.snapshot_id for each in asked), asked[0], asked[0].frame
    key = await context.keys.for_frame(encrypted=frame.encrypted, wrapped=frame.key)
    reader = PackReader(context.objects, context.dictionaries)
    records = await reader.frame(
        frame.object_key, frame.offset, frame.length, vouched=frame.digest, most=frame.most, frame_key=key
    )
    for record in records:
        if record.meta.saga_id != first.saga_id:
            raise CorruptPack(
                f"{frame.object_key}: a frame of saga {first.saga_id} holds snapshot {record.meta.snapshot_id} "
                f"of saga {record.meta.saga_id}"
            )
    await context.catalog.restores.pin(wanted, until)
    saved: set[UUID] = set()
    async with context.catalog.restores.keeping(frame, wanted) as there:
        for record in carrying(records, first.attributes):
            if record.meta.snapshot_id in there:
                decision = context.policies.decide(record.meta, SagaEnd.of(record.meta), context.now_us)
                dictionary = context.dictionaries.for_writing(record.meta.saga_name)
                level = context.settings.tiers.hot.compression_level
                value = await asyncio.to_thread(to_value, record, level=level, dictionary=dictionary, in_pack=True)
                refused = await context.hot.save(
                    record.meta, value, due_us=to_micros(until), expires_us=decision.expires_us
                )  # what is there already, or newer, is read
                if refused is None or not refused.foreign:
                    saved.add(record.meta.snapshot_id)
    return saved


async def _finish(context: JobContext, request: Restore, tally: Tally) -> None:
    packs = await _progress(context, request)
    if not _is_over(packs, tally):
        return
    until = context.now + timedelta(days=request.days)
    await context.catalog.restores.ready(request.restore_id, context.now, until, failed="DONE" not in packs)
    _log.info("restore.ready", restore_id=str(request.restore_id), failed_packs=packs.get("FAILED", 0))


async def tell(settings: RestoreSettings, restore: Restore) -> bool:
    """True when everybody who should know was told; False is to be tried again."""
    document = orjson.dumps({"event": "restore.ended", **restore.to_dict()})
    posted = settings.webhook is None or await _post(settings.webhook.get_secret_value(), document)
    ran = not settings.command or await _run(settings.command, document)
    return posted and ran


async def _post(url: str, document: bytes) -> bool:
    import aiohttp  # few processes ever get here, and it takes a tenth of a second and ten megabytes

    try:
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=document, headers={"Content-Type": "application/json"}) as answer,
        ):
            if answer.status < 300:
                return True
            _log.warning("webhook.refused", status=answer.status)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
        _log.warning("webhook.failed", error=str(exc) or type(exc).__name__)
    return False


async def _run(command: tuple[str, ...], document: bytes) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    except OSError as exc:
        _log.warning("notify_command.failed", command=command[0], error=str(exc))
        return False
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await process.communicate(document)
    except TimeoutError:
        process.kill()
        await process.wait()
    if process.returncode:
        _log.warning("notify_command.failed", command=command[0], code=process.returncode)
    return process.returncode == 0
