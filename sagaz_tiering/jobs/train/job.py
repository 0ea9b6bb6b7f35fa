"""Train: compression dictionaries for saga names whose data have enough in common.

A run first puts back what one of the three places lost (`dictionary_copies`), then samples sagas from Redis, and from
PostgreSQL the names that Redis has few of. For each name it trains on four fifths of the sample, masked
(`dictionaries.training`), and compares sizes on the last fifth with what is current; only what saves a tenth is
published, and at most once a day for each name. Sagas of policies with `encryption: per-saga` are not looked at: a
dictionary is not encrypted.

A crash leaves what `publish` says; nothing else is kept between runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.codec.value import Record, to_value
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.dictionaries.training import train
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.dictionary_copies import AT_MOST_EVERY, Trained, publish, put_back_lost
from sagaz_tiering.jobs.train.samples import SagaSample, masked_contents, samples
from sagaz_tiering.packs.frame import build_frame

MIN_SAVES = 0.1
"""A new dictionary saves at least this share of the bytes."""
_ONE_OF = 5
"""So many sagas are trained from for one that judges, and more by one."""


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
    best: Trained | None = None
    largest, level = settings.dictionaries.size, settings.tiers.hot.compression_level or settings.tiers.cold.pack.level
    for size in (largest, largest // 2):
        data = train(contents, size=size, level=level)
        if data is None:
            continue
        dictionary = Dictionary(data)
        shares = [after / max(was, 1) for after, was in zip(_sizes(judges, dictionary, settings), before, strict=True)]
        trained = Trained(
            saga_name=sample.saga_name, dictionary=dictionary, sagas=len(rest), saves=1 - sum(shares) / len(shares)
        )
        if best is None or trained.saves > best.saves:
            best = trained
    return best


def _sizes(sagas: Sequence[Sequence[Record]], dictionary: Dictionary | None, settings: TieringConfig) -> list[int]:
    """Bytes of all frames and, where Redis compresses, of all values."""
    level, hot_level = settings.tiers.cold.pack.level, settings.tiers.hot.compression_level
    frames = (build_frame([(record, None) for record in saga], level=level, dictionary=dictionary) for saga in sagas)
    sizes = [sum(len(frame.payload) for frame in frames)]
    if hot_level is not None:
        values = (to_value(record, level=hot_level, dictionary=dictionary) for saga in sagas for record in saga)
        sizes.append(sum(map(len, values)))
    return sizes
