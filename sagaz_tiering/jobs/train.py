"""Train: compression dictionaries for saga names whose data have enough in common.

A run first puts back what one of the three places lost (`dictionary_copies`), then samples sagas from Redis, and from
PostgreSQL the names that Redis has few of. For each name it trains on four fifths of the sample, masked
(`dictionaries.training`), and compares sizes on the last fifth with what is current; only what saves a tenth is
published, and at most once a day for each name. Sagas of policies with `encryption: per-saga` are not looked at: a
dictionary is not encrypted.

A crash leaves what `publish` says; nothing else is kept between runs.

Samples are whole sagas of each name, in bounded memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.codec.header import body_crc
from sagaz_tiering.codec.value import Header, Record, from_value, read_header, to_value
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.dictionaries.training import enough, mask, train
from sagaz_tiering.errors import CorruptRecord, HotTierUnavailable
from sagaz_tiering.jobs.age.writes import needs_key
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.dictionary_copies import AT_MOST_EVERY, Trained, publish, put_back_lost
from sagaz_tiering.jobs.mending import mended
from sagaz_tiering.objects.base import in_pages
from sagaz_tiering.packs.frame import build_frame, frame_content
from sagaz_tiering.policy import SagaEnd

MIN_SAVES = 0.1
"""A new dictionary saves at least this share of the bytes."""
_ONE_OF = 5
"""So many sagas are trained from for one that judges, and more by one."""
SAGAS_LOOKED_AT = 5_000
BYTES_KEPT = 32 * 2**20
"""Stored values that a run holds at most, of all names together."""
SAGA_BYTES = 128 * 2**10
"""Uncompressed bytes that count of one saga: its newest snapshots."""
_AT_ONCE = 64
_DURABLE_ROWS = 2_000
_DURABLE_BYTES = 64 * 2**10


async def preview(context: JobContext, tally: Tally) -> None:
    """Train as a run would, and say what it would put back and publish."""
    await put_back_lost(context, tally, dry_run=True)
    async for trained in _candidates(context, tally):
        tally.add("dictionaries", note=_told(trained, "would save"))


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Put back what was lost, then train and publish what pays."""
    await put_back_lost(context, tally)
    async for trained in _candidates(context, tally):
        if await publish(context, lease, trained):
            tally.add("dictionaries", note=_told(trained, "saves"))
        if context.stopping.is_set():
            return
    await context.dictionaries.refresh()


def _told(trained: Trained, verb: str) -> str:
    size = len(trained.dictionary.data)
    return (
        f"{trained.saga_name}: dictionary {trained.dictionary.id.hex()} of {size:,} bytes, from {trained.sagas} sagas, "
        f"{verb} {trained.saves:.0%} of the bytes"
    )


async def _candidates(context: JobContext, tally: Tally) -> AsyncIterator[Trained]:
    """What is worth publishing, one name after the other."""
    if not context.dictionaries.enabled:
        tally.note("dictionaries are turned off: `dictionaries.enabled`")
        return
    current = {each.saga_name: each for each in await context.catalog.dictionaries.list_current()}
    young = {name for name, each in current.items() if each.trained_at > context.now - AT_MOST_EVERY}
    for sample in await samples(context, young, tally):
        tally.add("names")
        if len(sample.sagas) < context.settings.dictionaries.min_sagas:
            tally.add("names_with_few_sagas")
            continue
        before = current.get(sample.saga_name)
        used_id = None if before is None else before.dictionary_id
        known = await context.dictionaries.need(used_id, *sample.dictionary_ids())
        used = None if used_id is None else known.get(used_id)
        trained = await asyncio.to_thread(_best, sample, known, used, context.settings)
        if trained is not None and trained.saves >= MIN_SAVES:
            yield trained
            continue
        tally.add("not_worth_it")
        if trained is not None:
            tally.note(_told(trained, "would only save"))


def _best(
    sample: SagaSample, known: Mapping[bytes, Dictionary], used: Dictionary | None, settings: TieringConfig
) -> Trained | None:
    """The better of two sizes, judged by sagas that it was not trained from, against what is `used` now."""
    sagas = sample.records(known)
    judges, rest = sagas[::_ONE_OF], [saga for number, saga in enumerate(sagas) if number % _ONE_OF]
    if not judges or not rest:
        return None
    contents = masked_contents(rest, seed=sample.saga_name)
    before = _sizes(judges, used, settings)
    found: list[Trained] = []
    largest, level = settings.dictionaries.size, settings.tiers.hot.compression_level or settings.tiers.cold.pack.level
    for size in (largest, largest // 2):
        if (data := train(contents, size=size, level=level)) is None:
            continue
        dictionary = Dictionary(data)
        shares = [after / max(was, 1) for after, was in zip(_sizes(judges, dictionary, settings), before, strict=True)]
        saves = 1 - sum(shares) / len(shares)
        found.append(Trained(saga_name=sample.saga_name, dictionary=dictionary, sagas=len(rest), saves=saves))
    return max(found, key=lambda trained: trained.saves, default=None)


def _sizes(sagas: Sequence[Sequence[Record]], dictionary: Dictionary | None, settings: TieringConfig) -> list[int]:
    """Bytes of all frames and, where Redis compresses, of all values."""
    level, hot_level = settings.tiers.cold.pack.level, settings.tiers.hot.compression_level
    frames = (build_frame([(record, None) for record in saga], level=level, dictionary=dictionary) for saga in sagas)
    sizes = [sum(len(frame.payload) for frame in frames)]
    if hot_level is not None:
        values = (to_value(record, level=hot_level, dictionary=dictionary) for saga in sagas for record in saga)
        sizes.append(sum(map(len, values)))
    return sizes


@dataclass(slots=True)
class SagaSample:
    """Sagas of one name, each as the values of its newest snapshots, newest first; `raw_bytes` when decompressed."""

    saga_name: str
    sagas: dict[UUID, list[bytes]] = field(default_factory=dict)
    raw_bytes: int = 0

    def dictionary_ids(self) -> set[bytes | None]:
        """What the values need to be read."""
        return {read_header(value).dictionary_id for values in self.sagas.values() for value in values}

    def records(self, known: Mapping[bytes, Dictionary]) -> list[list[Record]]:
        """The sagas' snapshots, but for what cannot be read. CPU heavy."""
        found = []
        for _, values in sorted(self.sagas.items()):
            records = []
            for value in values:
                with suppress(CorruptRecord):  # `age` reports it
                    records.append(from_value(value, None, known))
            if records:
                found.append(records)
        return found


class _Collected:
    """Samples as they grow, within all limits."""

    def __init__(self, context: JobContext, skip: Collection[str]) -> None:
        self.by_name: dict[str, SagaSample] = {}
        self.looked_at = set[UUID]()
        self._context = context
        self._skip = skip
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self.looked_at) >= SAGAS_LOOKED_AT or self._bytes >= BYTES_KEPT

    def add(self, saga_id: UUID, values: Sequence[bytes]) -> None:
        """One saga's values, in any order."""
        if saga_id in self.looked_at:
            return
        self.looked_at.add(saga_id)
        try:
            headers = [read_header(value) for value in values]
        except CorruptRecord:
            return  # `age` reports it
        if not headers or not self._may_be_used(headers):
            return
        name = headers[0].meta.saga_name
        sample = self.by_name.setdefault(name, SagaSample(name))
        if sample.raw_bytes >= self._context.settings.dictionaries.sample:
            return
        kept, size = list[bytes](), 0
        newest_first = sorted(zip(headers, values, strict=True), key=lambda each: each[0].meta.order_key, reverse=True)
        for header, value in newest_first:
            if size + header.raw_length > SAGA_BYTES:
                break
            kept.append(value)
            size += header.raw_length
        if kept:
            sample.sagas[saga_id] = kept
            sample.raw_bytes += size
            self._bytes += sum(map(len, kept))

    def _may_be_used(self, headers: Sequence[Header]) -> bool:
        """Of one name that is asked for, and of no policy that encrypts."""
        policies = self._context.policies
        if len({header.meta.saga_name for header in headers}) > 1 or headers[0].meta.saga_name in self._skip:
            return False
        end = SagaEnd.of(max((header.meta for header in headers), key=lambda meta: meta.order_key))
        return not any(needs_key(policies.for_meta(header.meta, end)) for header in headers)


async def samples(context: JobContext, skip: Collection[str], tally: Tally) -> list[SagaSample]:
    """What there is of each name but those to `skip`, the largest first. Works without Redis, and says so."""
    found = _Collected(context, skip)
    try:
        async for saga_ids in in_pages((one async for page in context.hot.saga_ids() for one in page), _AT_ONCE):
            if found.is_full:
                break
            await mended(context, saga_ids)
            for saga_id, gathered in zip(saga_ids, await context.hot.queue.gather(saga_ids), strict=True):
                if gathered is not None:
                    found.add(saga_id, [value for value in gathered.values if value is not None])
    except HotTierUnavailable as exc:
        tally.note(f"Redis was not looked at: {exc}")
    few = context.settings.dictionaries.min_sagas
    if not found.by_name or any(len(sample.sagas) < few for sample in found.by_name.values()):
        await _add_durable(context, found)
    tally.add("sagas", len(found.looked_at))
    return sorted(found.by_name.values(), key=lambda sample: (-len(sample.sagas), sample.saga_name))


async def _add_durable(context: JobContext, found: _Collected) -> None:
    rows = await context.catalog.dictionaries.durable_values(UUID(int=0), _DURABLE_ROWS, _DURABLE_BYTES)
    sagas: dict[UUID, list[bytes]] = {}
    for saga_id, value in rows:
        sagas.setdefault(saga_id, []).append(value)
    for saga_id, values in sagas.items():
        found.add(saga_id, values)


def masked_contents(sagas: Sequence[Sequence[Record]], *, seed: str) -> list[bytes]:
    """A frame's content for each saga, with nothing of a single saga in it. CPU heavy.

    Bodies are masked; ids, times and checksums are random, step names and statuses that few sagas have left out.
    """
    bodies = mask([[record.body for record in saga] for saga in sagas], seed=seed)
    names = _shared_names(sagas)
    first = min(record.meta.created_us for saga in sagas for record in saga)
    last = max(record.meta.created_us for saga in sagas for record in saga)
    random = Random(seed)
    found = []
    for saga, masked in zip(sagas, bodies, strict=True):
        saga_id, created_us = UUID(int=random.getrandbits(128)), random.randint(first, last)
        records = []
        for record, body in zip(saga, masked, strict=True):
            meta = record.meta
            other = meta._replace(
                snapshot_id=UUID(int=random.getrandbits(128)),
                saga_id=saga_id,
                step_name=meta.step_name if meta.step_name in names else "",
                status=meta.status if meta.status in names else "",
                created_us=created_us,
                saved_us=created_us + random.randint(0, 10_000),
                retention_us=None,
                body_crc=body_crc(body),
            )
            created_us -= random.randint(1, 1_000_000)
            records.append(Record(meta=other, encoding=record.encoding, body=body))
        found.append(frame_content(records))
    return found


def _shared_names(sagas: Sequence[Sequence[Record]]) -> frozenset[str]:
    counts: Counter[str] = Counter()
    for saga in sagas:
        counts.update({name for record in saga for name in (record.meta.step_name, record.meta.status)})
    least = enough(len(sagas))
    return frozenset(name for name, count in counts.items() if count >= least)
