"""The object store: whether it answers, whose the prefix is, how the bucket is set up, and what a probe finds.

Of the bucket its own settings: versions, locks, and rules that would move or delete our objects behind our back.
"""

from __future__ import annotations

import time

import asyncpg

from sagaz_tiering.app.parts import Parts
from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.mark import MOST_BYTES, OWNER_KEY, UNREADABLE, Mark, MarkStanding, judge, parse, told_instead
from sagaz_tiering.doctor.finding import Findings, Level, is_refusal
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
from sagaz_tiering.objects.s3.bucket import LifecycleRule, default_lock, lifecycle_rules, lists_versions, versioning
from sagaz_tiering.objects.s3.store import S3ObjectStore
from sagaz_tiering.storage_class import StorageClass

_OWNER = "object_store.owner"
_LOCK = "object_store.object_lock"
_REFUSED: dict[MarkStanding, tuple[type[ForeignCatalog], str]] = {
    MarkStanding.FOREIGN: (ForeignCatalog, "the prefix belongs to {owner}, which this one is not"),
    MarkStanding.BEHIND: (CatalogBehind, "this catalog is behind: the mark of the prefix was moved on without it"),
    MarkStanding.UNPROVEN: (CatalogUnproven, "this database is not the one that moved the mark of the prefix last"),
    MarkStanding.WRONG_BUCKET: (WrongBucket, "the prefix has no owner.json, and this catalog has packs in it"),
}
_UNCLAIMED = "nobody has claimed the prefix yet; the first job that runs does"


async def check_object_store(parts: Parts, found: Findings) -> None:
    """Everything about it. Nothing is written where the prefix may be another catalog's, or could not be removed."""
    async with await parts.objects() as store:
        await _reach(found, store)
        is_ours = await _owner(found, parts, store)
        if isinstance(store, S3ObjectStore):
            await _bucket(found, store)
        keeps = any(each.subject == _LOCK and each.level is Level.ERROR for each in found)
        if keeps or not is_ours:
            why = "what it writes could not be removed" if keeps else "the prefix may belong to another catalog"
            found.warning("object_store.probe", f"nothing was tried: {why}", "correct that, then run this again")
            return
        used = [move.to for policy in parts.config.policies for move in policy.move]
        await Probe(store, list(dict.fromkeys(used)), parts.clock, found).run()


async def _reach(found: Findings, store: ObjectStore) -> None:
    """Raises what keeps everybody out; a right that only this question needs is a warning."""
    began = time.perf_counter()
    try:
        await store.check()
    except SagazTieringError as exc:
        if not is_refusal(exc):
            raise
        found.failed("object_store.reachable", exc)
    else:
        took = (time.perf_counter() - began) * 1000
        found.ok("object_store.reachable", f"{store.url} answers in {took:.1f} ms")


async def _owner(found: Findings, parts: Parts, store: ObjectStore) -> bool:
    """Whose the prefix is (guarantee G8); whether it is ours, or may be."""
    try:
        present, mark, instead = await _mark(store)
    except SagazTieringError as exc:
        found.failed(_OWNER, exc)
        return False
    if present and mark is None:
        found.error(_OWNER, instead, UNREADABLE, exit_code=ForeignCatalog.exit_code)
        return False
    owner = "" if mark is None else f"catalog {mark.catalog_id}"
    try:
        async with parts.database() as db:
            row = await Catalog(db).ownership.look()
    except (SagazTieringError, asyncpg.PostgresError):
        if present:
            text = "whose the prefix is was not looked at: PostgreSQL cannot be asked now"
            found.warning(_OWNER, text, "correct PostgreSQL first, then run this again")
        else:
            found.ok(_OWNER, _UNCLAIMED)
        return not present
    standing = judge(row, mark, present=present)
    if standing in _REFUSED:
        kind, text = _REFUSED[standing]
        found.error(_OWNER, text.format(owner=owner), kind.hint, exit_code=kind.exit_code)
        return False
    ours = f"the prefix belongs to this catalog ({row.catalog_id})"
    found.ok(_OWNER, _UNCLAIMED if standing is MarkStanding.UNCLAIMED else ours)
    return True


async def _mark(store: ObjectStore) -> tuple[bool, Mark | None, str]:
    """Whether there is one, what it says, and what is there instead of one that can be read."""
    try:
        data, _ = await store.get_tagged(OWNER_KEY, most=MOST_BYTES)
    except ObjectNotFound:
        return False, None, ""
    except CorruptData as exc:
        return True, None, str(exc)
    return True, parse(data), told_instead(data)


async def _bucket(found: Findings, store: S3ObjectStore) -> None:
    """Each setting by itself: a right to read one of them is often missing."""
    with found.guarded("object_store.versioning"):
        await _versioning(found, store)
    with found.guarded(_LOCK):
        await _lock(found, store)
    with found.guarded("object_store.lifecycle"):
        await _lifecycle(found, store)


async def _versioning(found: Findings, store: S3ObjectStore) -> None:
    subject, status = "object_store.versioning", await versioning(store.calls)
    if not status:
        found.ok(subject, "the bucket keeps no versions")
        return
    try:
        await lists_versions(store.calls)
    except SagazTieringError as exc:
        if not is_refusal(exc):
            raise
        text = f"versioning is {status}, but old versions may not be listed: they would stay, readable and billed"
        found.warning(subject, text, exc.hint)
    else:
        found.ok(subject, f"versioning is {status}; jobs remove old versions of what they move and delete")


async def _lock(found: Findings, store: S3ObjectStore) -> None:
    kept = await default_lock(store.calls)
    if kept:
        text = f"Object Lock keeps every new object ({kept}): what expires or is forgotten cannot be removed before"
        found.error(_LOCK, text, "use a bucket without a default retention; `retain` and legal holds are ours")
    else:
        found.ok(_LOCK, "no default retention")


async def _lifecycle(found: Findings, store: S3ObjectStore) -> None:
    rules, prefix = await lifecycle_rules(store.calls), store.calls.options.prefix
    ours = [rule for rule in rules if rule.touches(f"{prefix}/" if prefix else "")]
    before = len(found)
    for rule in ours:
        _judge_rule(found, rule)
    if len(found) == before:
        aborts = any(rule.aborts_uploads for rule in ours)
        advice = "" if aborts else "a rule that aborts incomplete uploads after a day saves what crashes leave"
        found.ok("object_store.lifecycle", f"{len(rules)} rules, none moves or deletes our objects", advice)


def _judge_rule(found: Findings, rule: LifecycleRule) -> None:
    subject, where = "object_store.lifecycle", f"rule {rule.name!r} (prefix {rule.prefix or '/'!r})"
    if rule.expires:
        text = f"{where} deletes our objects, whatever policies and legal holds say"
        found.error(subject, text, "exclude our prefix from the rule: `retain` decides what goes")
    hint = "exclude our prefix from the rule: `move` decides what is where"
    archives = [each for each in rule.moves_to if each in (StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE)]
    if archives:
        text = f"{where} archives our objects in {', '.join(archives)}, also owner.json and footers, which are read"
        found.error(subject, text, hint)
    elif rule.moves_to:
        text = f"{where} moves our objects to {', '.join(rule.moves_to)} behind the catalog's back"
        found.warning(subject, text, hint)
