"""The three places of compression dictionaries: publishing a new one, and putting back what one of them lost.

The order of publishing, and what a crash after each step leaves:

1. the object in the bucket, read back          -> an object that nothing names; it is learnt, and harmless
2. the row in the catalog                       -> current, but not in Redis; the next run tells Redis
3. its content in Redis, then its name          -> done

So whatever a writer learns of (from the catalog) is in the bucket already, and a reader finds what any of the three
still has. Before a pack is published its dictionaries are seen to be in the bucket and in the catalog (`keep`): copied
frames may need one that only Redis has. Each of the two is repaired from the other, by sha256. Nothing is ever deleted:
packs, values and backups of both need them, and they are few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.codec.zstd import DICTIONARY_ID_BYTES, Dictionary
from sagaz_tiering.costs.economics import upload_cost
from sagaz_tiering.dictionaries.cache import BucketDictionaries, dictionary_key, digest_in
from sagaz_tiering.errors import CorruptData, HotTierUnavailable, ObjectNotFound
from sagaz_tiering.hot.dictionaries import HotDictionaries
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)

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
    await context.spend("train", upload_cost(context.prices, StorageClass.STANDARD))
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


async def keep(context: JobContext, dictionaries: Iterable[Dictionary]) -> int:
    """See that these are in the bucket and in the catalog, wherever they come from; how many were not.

    An object that has the name of one and other bytes goes. Raises what the object store raises where they cannot be
    kept: nothing that needs them may be published.
    """
    wanted, added = list(dictionaries), 0
    if not wanted:
        return 0
    bucket, catalog = BucketDictionaries(context.objects), context.catalog.dictionaries
    await context.spend_reads("train", StorageClass.STANDARD, requests=len(wanted), must=True)
    known = await catalog.digests()
    for dictionary in wanted:
        in_bucket = await bucket.has(dictionary)
        if not in_bucket:
            await context.spend("train", upload_cost(context.prices, StorageClass.STANDARD), must=True)
            await bucket.replace(dictionary)
        if not in_bucket or dictionary.digest not in known:
            await catalog.enter(dictionary, context.now)
            _log.warning("dictionary.put_back", dictionary_id=dictionary.id.hex())
            added += 1
    return added


async def put_back_lost(context: JobContext, tally: Tally, *, dry_run: bool = False) -> None:
    """Put back what a place lost: Redis was emptied, the catalog is from an old dump, an object was deleted.

    `dry_run`: count what would be, and write nothing.
    """
    in_bucket, learnt = await learn(context, tally, dry_run=dry_run)
    bucket, catalog = BucketDictionaries(context.objects), context.catalog.dictionaries
    for digest in in_bucket.intersection(await catalog.altered()):
        with suppress(CorruptData, ObjectNotFound):  # `look_into_dictionaries` names it
            right = await bucket.get(digest)
            if not dry_run:
                await catalog.repair(right)
            tally.add("put_back", note=f"{dictionary_key(digest)} was altered in the catalog; put back from the bucket")
    known = await catalog.digests()
    for digest in sorted(known - in_bucket):
        found = await _in_catalog(context, digest)
        if found is not None:
            if not dry_run:
                await context.spend("train", upload_cost(context.prices, StorageClass.STANDARD))
                await bucket.put(found)
            tally.add("put_back", note=f"{dictionary_key(digest)} was not in the bucket; put back from the catalog")
    try:
        await _put_back_into_redis(context, known | learnt, tally, dry_run=dry_run)
    except HotTierUnavailable as exc:
        tally.note(f"dictionaries in Redis were not looked at: {exc}")


async def _in_catalog(context: JobContext, digest: bytes) -> Dictionary | None:
    """What the catalog has under a sha256, if it is that."""
    data = await context.catalog.dictionaries.fetch(digest[:DICTIONARY_ID_BYTES])
    found = None if data is None else Dictionary(data)
    return found if found is not None and found.digest == digest else None


async def _put_back_into_redis(context: JobContext, known: Collection[bytes], tally: Tally, *, dry_run: bool) -> None:
    redis, catalog = HotDictionaries(context.hot), context.catalog.dictionaries
    told = await redis.current()
    strange = set(told.values()) - {digest[:DICTIONARY_ID_BYTES] for digest in known}
    if strange:
        tally.add("dictionaries_in_redis_alone", len(strange))
        tally.note(f"Redis alone has {', '.join(sorted(each.hex() for each in strange))}: never used to write")
    if not dry_run:
        await catalog.name_them({dictionary_id: name for name, dictionary_id in told.items()})
    missing = await redis.missing([digest[:DICTIONARY_ID_BYTES] for digest in sorted(known)])
    for found in (await context.dictionaries.need(*missing)).values():
        if not dry_run:
            await redis.put(found)
        tally.add("put_back")
    if not dry_run:
        current = await catalog.current()
        await redis.name({name: found for name, found in current.items() if told.get(name) != found})


async def learn(context: JobContext, tally: Tally, *, dry_run: bool = False) -> tuple[set[bytes], set[bytes]]:
    """Enter into the catalog what only the bucket has (`dry_run`: only count that).

    The sha256 of all dictionaries in the bucket, as their names say, and of those that the catalog did not know.
    """
    bucket, catalog = BucketDictionaries(context.objects), context.catalog.dictionaries
    known, found, learnt = await catalog.digests(), set[bytes](), set[bytes]()
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
            tally.add("unreadable", note=f"not in the catalog: {exc}")
            continue
        if dry_run or await catalog.enter(dictionary, info.modified_at):
            learnt.add(digest)
            tally.add("dictionaries_learnt")
    return found, learnt


async def preview_dictionaries(context: JobContext, tally: Tally) -> None:
    """What a scrub finds of dictionaries without reading them, and what it puts back."""
    await put_back_lost(context, tally, dry_run=True)
    async for info in BucketDictionaries(context.objects).all():
        if digest_in(info.key) is None:
            tally.add("foreign", note=f"foreign: {info.key}: {_not_named(info)}")


def _not_named(info: ObjectInfo) -> str:
    return f"{info.size} bytes that are not named like a dictionary"


async def look_into_dictionaries(context: JobContext, tally: Tally) -> None:
    """Read every dictionary in the bucket; what is altered or foreign is named in the quarantine."""
    bucket, quarantine = BucketDictionaries(context.objects), context.catalog.quarantine
    async for info in bucket.all():
        await context.spend_reads("scrub", StorageClass.STANDARD, size=info.size)
        digest, what, detail = digest_in(info.key), "foreign", _not_named(info)
        try:
            if digest is not None:
                await bucket.get(digest)
                await quarantine.resolve("object", info.key)
                tally.add("dictionaries_sound")
                continue
        except ObjectNotFound:
            continue
        except CorruptData as exc:
            what, detail = "altered", f"{exc}; the catalog has not got it either"
            if digest is not None and (right := await _in_catalog(context, digest)) is not None:
                await context.spend("scrub", upload_cost(context.prices, StorageClass.STANDARD))
                await bucket.replace(right)
                _log.error("scrub.found", what=what, object_key=info.key, detail="put back from the catalog")
                await quarantine.resolve("object", info.key)
                tally.add(what)
                tally.add("repaired", note=f"{exc}; put back from the catalog")
                continue
        tally.add(what, note=f"{what}: {info.key}: {detail}")
        _log.error("scrub.found", what=what, object_key=info.key, detail=detail)
        await quarantine.record("object", info.key, f"{what}: {detail}", context.now, budget=1)
