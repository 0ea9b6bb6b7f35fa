"""The three places of compression dictionaries: publishing a new one, and putting back what one of them lost.

The order of publishing, and what a crash after each step leaves:

1. the object in the bucket, read back          -> an object that nothing names; it is learnt, and harmless
2. the row in the catalog                       -> current, but not in Redis; the next run tells Redis
3. its content in Redis, then its name          -> done

So whatever a writer learns of is in the bucket already, and a reader finds what any of the three still has. Nothing
is ever deleted: packs, values and backups of both need them, and they are few.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

import structlog

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.engine.budget import spend
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.errors import CorruptData, HotTierUnavailable, ObjectNotFound
from sagaz_tiering.pack.dictionary_objects import BucketDictionaries, dictionary_key, digest_in
from sagaz_tiering.planning import Cost
from sagaz_tiering.planning.economics import upload_cost
from sagaz_tiering.storage.hot_dictionaries import HotDictionaries
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.zstd import DICTIONARY_ID_BYTES, Dictionary

_log = structlog.get_logger(__name__)

AT_MOST_EVERY = timedelta(days=1)
"""A name gets no new dictionary sooner: each is kept for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A dictionary that pays: `sagas` it was trained from, share of bytes that it `saves` on others."""

    saga_name: str
    dictionary: Dictionary
    sagas: int
    saves: float


async def publish(context: JobContext, lease: Lease, trained: Trained) -> bool:
    """Make it the current one of its name; False if that got another one meanwhile. Raises LeaseLost."""
    dictionary = trained.dictionary
    await spend(context, "train", upload_cost(context.prices, StorageClass.STANDARD))
    await BucketDictionaries(context.objects).put(dictionary)
    if not await context.catalog.dictionaries.publish(
        dictionary,
        trained.saga_name,
        lease,
        context.now,
        sagas=trained.sagas,
        saves=trained.saves,
        at_most_every=AT_MOST_EVERY,
    ):
        return False
    redis = HotDictionaries(context.hot)
    await redis.put(dictionary)
    await redis.name({trained.saga_name: dictionary.id})
    _log.info("dictionary.published", dictionary_id=dictionary.id.hex(), saga_name=trained.saga_name)
    return True


async def reconcile(context: JobContext, tally: Tally) -> None:
    """Put back what a place lost: Redis was emptied, the catalog is from an old dump, an object was deleted."""
    in_bucket = await learn(context, tally)
    bucket, catalog = BucketDictionaries(context.objects), context.catalog.dictionaries
    known = await catalog.digests()
    for digest in sorted(known - in_bucket):
        data = await catalog.fetch(digest[:DICTIONARY_ID_BYTES])
        if data is not None:
            await spend(context, "train", upload_cost(context.prices, StorageClass.STANDARD))
            await bucket.put(Dictionary(data))
            tally.add("put_back")
            tally.note(f"{dictionary_key(digest)} was not in the bucket; put back from the catalog")
    try:
        await _reconcile_redis(context, known, tally)
    except HotTierUnavailable as exc:
        tally.note(f"dictionaries in Redis were not looked at: {exc}")


async def _reconcile_redis(context: JobContext, known: Collection[bytes], tally: Tally) -> None:
    redis, catalog = HotDictionaries(context.hot), context.catalog.dictionaries
    told = await redis.current()
    await catalog.name_them({dictionary_id: name for name, dictionary_id in told.items()})
    missing = await redis.missing([digest[:DICTIONARY_ID_BYTES] for digest in sorted(known)])
    for found in (await context.dictionaries.need(*missing)).values():
        await redis.put(found)
        tally.add("put_back")
    current = await catalog.current()
    await redis.name({name: found for name, found in current.items() if told.get(name) != found})


async def learn(context: JobContext, tally: Tally) -> set[bytes]:
    """Enter into the catalog what only the bucket has; the sha256 of all that are there, as their names say."""
    bucket, catalog = BucketDictionaries(context.objects), context.catalog.dictionaries
    known, found = await catalog.digests(), set()
    async for info in bucket.all():
        digest = digest_in(info.key)
        if digest is None:
            continue  # `scrub` reports it
        found.add(digest)
        if digest in known:
            continue
        try:
            dictionary = await bucket.get(digest)
        except (CorruptData, ObjectNotFound) as exc:
            tally.add("unreadable")
            tally.note(f"not in the catalog: {exc}")
            continue
        if await catalog.adopt(dictionary, info.modified_at):
            tally.add("dictionaries_learnt")
    return found


async def look_into_dictionaries(context: JobContext, tally: Tally) -> None:
    """Read every dictionary in the bucket; what is altered or foreign is named in the quarantine."""
    bucket, quarantine = BucketDictionaries(context.objects), context.catalog.quarantine
    async for info in bucket.all():
        usd = context.prices.get_usd(StorageClass.STANDARD, 1, total_bytes=info.size)
        await spend(context, "scrub", Cost(requests=1, usd=usd))
        digest, what = digest_in(info.key), "foreign"
        detail = f"{info.size} bytes that are not named like a dictionary"
        if digest is not None:
            try:
                await bucket.get(digest)
            except CorruptData as exc:
                what = "altered"
                detail = f"{exc}; delete it, and the job `train` puts it back from the catalog"
            except ObjectNotFound:
                continue
            else:
                await quarantine.resolve("object", info.key)
                tally.add("dictionaries_sound")
                continue
        tally.add(what)
        tally.note(f"{what}: {info.key}: {detail}")
        _log.error("scrub.found", what=what, object_key=info.key, detail=detail)
        await quarantine.record("object", info.key, f"{what}: {detail}", context.now, budget=1)
