"""The bucket's own settings: versions, locks, and rules that would move or delete our objects behind our back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

from sagaz_tiering.doctor.finding import Finding, error, guarded, is_refusal, ok, warning
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.objects.s3.bucket import LifecycleRule, default_lock, lifecycle_rules, lists_versions, versioning
from sagaz_tiering.objects.s3.store import S3ObjectStore
from sagaz_tiering.storage_class import StorageClass

LOCK = "object_store.object_lock"


async def check_bucket(store: S3ObjectStore) -> AsyncGenerator[Finding, None]:
    """Each setting by itself: a right to read one of them is often missing."""
    for subject, check in (
        ("object_store.versioning", _versioning(store)),
        (LOCK, _lock(store)),
        ("object_store.lifecycle", _lifecycle(store)),
    ):
        async for found in guarded(subject, check):
            yield found


async def _versioning(store: S3ObjectStore) -> AsyncGenerator[Finding, None]:
    subject, status = "object_store.versioning", await versioning(store.calls)
    if not status:
        yield ok(subject, "the bucket keeps no versions")
        return
    try:
        await lists_versions(store.calls)
    except SagazTieringError as exc:
        if not is_refusal(exc):
            raise
        text = f"versioning is {status}, but old versions may not be listed: they would stay, readable and billed"
        yield warning(subject, text, exc.hint)
        return
    yield ok(subject, f"versioning is {status}; jobs remove old versions of what they move and delete")


async def _lock(store: S3ObjectStore) -> AsyncGenerator[Finding, None]:
    kept = await default_lock(store.calls)
    if kept:
        text = f"Object Lock keeps every new object ({kept}): what expires or is forgotten cannot be removed before"
        yield error(LOCK, text, "use a bucket without a default retention; `retain` and legal holds are ours")
    else:
        yield ok(LOCK, "no default retention")


async def _lifecycle(store: S3ObjectStore) -> AsyncGenerator[Finding, None]:
    rules, prefix = await lifecycle_rules(store.calls), store.calls.options.prefix
    under = f"{prefix}/" if prefix else ""
    found = [each for rule in rules if rule.touches(under) for each in _findings(rule)]
    for each in found:
        yield each
    if not found:
        aborts = any(rule.aborts_uploads and rule.touches(under) for rule in rules)
        advice = "" if aborts else "a rule that aborts incomplete uploads after a day saves what crashes leave"
        yield ok("object_store.lifecycle", f"{len(rules)} rules, none moves or deletes our objects", advice)


def _findings(rule: LifecycleRule) -> Iterator[Finding]:
    subject, where = "object_store.lifecycle", f"rule {rule.name!r} (prefix {rule.prefix or '/'!r})"
    if rule.expires:
        text = f"{where} deletes our objects, whatever policies and legal holds say"
        yield error(subject, text, "exclude our prefix from the rule: `retain` decides what goes")
    archives = [each for each in rule.moves_to if each in (StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE)]
    if archives:
        text = f"{where} archives our objects in {', '.join(archives)}, also owner.json and footers, which are read"
        yield error(subject, text, "exclude our prefix from the rule: `move` decides what is where")
    elif rule.moves_to:
        text = f"{where} moves our objects to {', '.join(rule.moves_to)} behind the catalog's back"
        yield warning(subject, text, "exclude our prefix from the rule: `move` decides what is where")
