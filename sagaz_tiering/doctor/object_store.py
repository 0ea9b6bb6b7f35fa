"""The object store: whether it answers, whose the prefix is, how the bucket is set up, and what a probe finds."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import asyncpg

from sagaz_tiering.app.runtime import Parts
from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.mark import MOST_BYTES, OWNER_KEY, UNREADABLE, Mark, MarkStanding, judge, parse, told_instead
from sagaz_tiering.doctor.bucket import LOCK, check_bucket
from sagaz_tiering.doctor.finding import Finding, Level, error, from_error, is_refusal, ok, warning
from sagaz_tiering.doctor.probe import Probe
from sagaz_tiering.errors import (
    CatalogBehind,
    CatalogUnproven,
    CorruptData,
    ForeignCatalog,
    ObjectNotFound,
    SagazTieringError,
    WrongBucket,
)
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.objects.s3.store import S3ObjectStore

_OWNER = "object_store.owner"
_REFUSED: dict[MarkStanding, tuple[type[ForeignCatalog], str]] = {
    MarkStanding.FOREIGN: (ForeignCatalog, "the prefix belongs to {owner}, which this one is not"),
    MarkStanding.BEHIND: (CatalogBehind, "this catalog is behind: the mark of the prefix was moved on without it"),
    MarkStanding.UNPROVEN: (CatalogUnproven, "this database is not the one that moved the mark of the prefix last"),
    MarkStanding.WRONG_BUCKET: (WrongBucket, "the prefix has no owner.json, and this catalog has packs in it"),
}


async def check_object_store(parts: Parts) -> AsyncGenerator[Finding, None]:
    """Everything about it. Nothing is written where the prefix may be another catalog's, or could not be removed."""
    async with parts.objects() as store:
        yield await _reach(store)
        belongs = await _owner(parts, store)
        yield belongs
        keeps = False
        if isinstance(store, S3ObjectStore):
            async for found in check_bucket(store):
                keeps = keeps or (found.subject == LOCK and found.level is Level.ERROR)
                yield found
        if keeps or belongs.level is not Level.OK:
            why = "what it writes could not be removed" if keeps else "the prefix may belong to another catalog"
            yield warning("object_store.probe", f"nothing was tried: {why}", "correct that, then run this again")
            return
        used = [move.to for policy in parts.config.policies for move in policy.move]
        async for found in Probe(store, list(dict.fromkeys(used)), parts.clock).run():
            yield found


async def _reach(store: ObjectStore) -> Finding:
    """Raises what keeps everybody out; a right that only this question needs is a warning."""
    began = time.perf_counter()
    try:
        await store.check()
    except SagazTieringError as exc:
        if not is_refusal(exc):
            raise
        return from_error("object_store.reachable", exc)
    return ok("object_store.reachable", f"{store.url} answers in {(time.perf_counter() - began) * 1000:.1f} ms")


async def _owner(parts: Parts, store: ObjectStore) -> Finding:
    """Whose the prefix is (guarantee G8)."""
    try:
        present, mark, instead = await _mark(store)
    except SagazTieringError as exc:
        return from_error(_OWNER, exc)
    if present and mark is None:
        return error(_OWNER, instead, UNREADABLE, exit_code=ForeignCatalog.exit_code)
    owner = "" if mark is None else f"catalog {mark.catalog_id}"
    try:
        async with parts.database() as db:
            row = await Catalog(db).ownership.look()
    except (SagazTieringError, asyncpg.PostgresError):
        if not present:
            return ok(_OWNER, "nobody has claimed the prefix yet; the first job that runs does")
        text = "whose the prefix is was not looked at: PostgreSQL cannot be asked now"
        return warning(_OWNER, text, "correct PostgreSQL first, then run this again")
    standing = judge(row, mark, present=present)
    if standing is MarkStanding.UNCLAIMED:
        return ok(_OWNER, "nobody has claimed the prefix yet; the first job that runs does")
    if standing in _REFUSED:
        kind, text = _REFUSED[standing]
        return error(_OWNER, text.format(owner=owner), kind.hint, exit_code=kind.exit_code)
    return ok(_OWNER, f"the prefix belongs to this catalog ({row.catalog_id})")


async def _mark(store: ObjectStore) -> tuple[bool, Mark | None, str]:
    """Whether there is one, what it says, and what is there instead of one that can be read."""
    try:
        data, _ = await store.get_tagged(OWNER_KEY, most=MOST_BYTES)
    except ObjectNotFound:
        return False, None, ""
    except CorruptData as exc:
        return True, None, str(exc)
    return True, parse(data), told_instead(data)
