"""Who may write under the prefix, and which policies are in force.

The object `owner.json` names the catalog that a prefix belongs to (design G8). A copy of a catalog's host, or a
staging daemon pointed at production's bucket, has another catalog id and neither writes nor deletes there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import orjson

from sagaz_tiering.catalog.durable import SPILL_NOTICE
from sagaz_tiering.engine.job import JobContext
from sagaz_tiering.errors import ForeignCatalog, ObjectExists, ObjectNotFound
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.storage_class import StorageClass

OWNER_KEY = "owner.json"
_FIRST_ID = UUID(int=0)
_BATCH = 10_000


async def claim_prefix(context: JobContext) -> UUID:
    """The catalog's id, once it is sure that the prefix is its own; marks a prefix that nobody owns.

    Raises ForeignCatalog, or what the catalog or the object store raise.
    """
    if context.catalog_id is not None:
        return context.catalog_id
    catalog_id = await context.catalog.identity()
    mark = orjson.dumps({"catalog_id": str(catalog_id), "claimed_at": context.now.isoformat()})
    owner = await owner_of(context.objects)
    if owner is None:
        try:
            await context.objects.put(
                OWNER_KEY, mark, storage_class=StorageClass.STANDARD, sha256=hashlib.sha256(mark).digest()
            )
            owner = str(catalog_id)
        except ObjectExists:
            owner = await owner_of(context.objects)
    check_owner(context.objects, owner, catalog_id)
    context.catalog_id = catalog_id
    return catalog_id


async def owner_of(objects: ObjectStore) -> str | None:
    """The catalog that the prefix belongs to, as its mark says; None for a prefix that nobody has claimed."""
    try:
        return _owner_in(await objects.get(OWNER_KEY))
    except ObjectNotFound:
        return None


def check_owner(objects: ObjectStore, owner: str | None, catalog_id: UUID) -> None:
    """Raise ForeignCatalog unless `owner` is this catalog."""
    if owner != str(catalog_id):
        raise ForeignCatalog(
            f"{objects.url} belongs to catalog {owner}, this one is {catalog_id}; nothing was written",
            hint="use another prefix for this catalog; only if the other catalog is gone for good, delete owner.json",
        )


def _owner_in(mark: bytes) -> str:
    try:
        return str(orjson.loads(mark)["catalog_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "(unreadable owner.json)"


def first_after(policies: PolicySet) -> timedelta | None:
    """The youngest age at which these policies move anything."""
    return min((policy.move[0].after for policy in policies.policies if policy.move), default=None)


def retention_revision(policies: PolicySet) -> str:
    """Changes exactly when the policies may give a snapshot another expiry."""
    return policies.retention_revision


async def are_in_force(context: JobContext) -> bool:
    """Whether the policies of `context` are those that were last put in force."""
    return await context.catalog.history.newest_revision() == context.policies.revision


async def put_policies_in_force(context: JobContext) -> bool:
    """Note the policy revision before anything acts on it; if it is new, have everything looked at once more.

    Returns True if it was new. Readers learn the youngest age of a move within `SPILL_NOTICE`, so a new
    revision waits that long before its first move. A crash in between repeats the walk.
    """
    if await are_in_force(context):
        return False
    await context.catalog.history.accept_first(context.policies.retention_text, context.now)
    await look_at_all_again(context)
    texts = json.dumps([policy.model_dump(mode="json") for policy in context.policies.policies])
    revision, first = context.policies.revision, first_after(context.policies)
    await context.catalog.history.remember_revision(revision, texts, first, context.now)
    await asyncio.sleep(SPILL_NOTICE.total_seconds())
    return True


async def look_at_all_again(context: JobContext) -> None:
    """Have `age` look at every snapshot that is not in a pack once more, also those that nothing was due of."""
    async for saga_ids in context.hot.saga_ids():
        await context.hot.look_again(saga_ids, expiring=False)
    after: UUID | None = _FIRST_ID
    while after is not None:
        after = await context.catalog.durable.reset_due(after, _BATCH)


async def with_accepted(context: JobContext) -> JobContext:
    """The same, but nothing ends before the rules that `expire` accepted last let go of it."""
    accepted = await context.catalog.history.accepted_retention()
    before = None if accepted is None else PolicySet.of_retention_text(accepted[1])
    return replace(context, policies=context.policies.honouring(before))
