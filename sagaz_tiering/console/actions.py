"""What operators can do: restore, hold, release, forget, retry; each the same call as the command line's."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sagaz_tiering.catalog.holds import Coverage
from sagaz_tiering.catalog.restores import RETRIEVALS, Wanted
from sagaz_tiering.config.load import config_of
from sagaz_tiering.console.access import Visitor
from sagaz_tiering.console.documents import Documents
from sagaz_tiering.console.routes import Asked, BadQuestion, Endpoint, NotThere, Parameter, action, id_of, there
from sagaz_tiering.console.saga_views import SAGA_ID
from sagaz_tiering.costs.lines import difference
from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.operations.survey import planned
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.terminal import document, plain

_REASON: Final = Parameter("reason", "the case or order that asks for it", required=True)
_ITEM: Final = Parameter("item", "object key or snapshot id", required=True)
_SAGA: Final = "saga {saga_id}"
_SAGA_PAGE: Final = "/sagas/{saga_id}"


@action(
    "/sagas/{saga_id}/restore",
    [
        SAGA_ID,
        Parameter("snapshot_id", "only this snapshot", "uuid"),
        Parameter("tier", "how fast", choices=RETRIEVALS),
        Parameter("days", "how long it stays", "int", least=1, most=3650),
    ],
    subject=lambda asked: (_SAGA + " snapshot {snapshot_id}" * bool(asked["snapshot_id"])).format(**asked),
    then="/restores/{restore_id}",
)
async def restore(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    """Ask for what is archived of a saga, or for one snapshot, to come back."""
    snapshot = asked["snapshot_id"]
    wanted = Wanted(saga_ids=[asked["saga_id"]], snapshot_ids=None if snapshot is None else [snapshot])
    found = await documents.storage.restorer.request(wanted, tier=asked["tier"], days=asked["days"], who=visitor.name)
    return there(found, "nothing of that is in a pack; what is in Redis or PostgreSQL needs no restore").to_dict()


@action(
    "/restores/{restore_id}/cancel", [id_of("restore")], subject="restore {restore_id}", then="/restores/{restore_id}"
)
async def cancel_restore(documents: Documents, asked: Asked, _: Visitor) -> dict[str, Any]:
    """End a restore; what S3 was asked for is billed all the same."""
    is_cancelled = await documents.storage.cancel_restore(asked["restore_id"])
    there(is_cancelled, f"no restore {asked['restore_id']} is under way")
    return {"restore_id": str(asked["restore_id"]), "state": "CANCELLED"}


@action("/sagas/{saga_id}/hold", [SAGA_ID, _REASON], subject=_SAGA, then=_SAGA_PAGE)
async def hold(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    """Place a legal hold: nothing of the saga expires or can be deleted until it is released."""
    storage, saga_id = documents.storage, asked["saga_id"]
    try:
        covered = await storage.covered(saga_id)
    except HotTierUnavailable:  # a hold must not wait for Redis
        covered = Coverage(exact=False)
    if covered.is_nothing:
        raise NotThere(f"nothing is held: no tier has a snapshot of saga {saga_id}")
    placed = await storage.holder.hold(saga_id, reason=asked["reason"], who=visitor.name)
    waits = await storage.publish_journal()
    return {**placed.to_dict(), "covers": document(covered, "snapshots"), "in_bucket": not waits}


@action("/holds/{hold_id}/release", [id_of("hold"), _REASON], subject="hold {hold_id}", then="/holds")
async def release(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    """End a legal hold."""
    storage, wanted = documents.storage, asked["hold_id"]
    found = [hold for hold in await documents.catalog.holds.named(wanted) if hold.hold_id == wanted]
    there(found, f"no hold {wanted} is in force")
    count = await storage.holder.release(found, reason=asked["reason"], who=visitor.name)
    waits = await storage.publish_journal()
    return {"hold_id": str(wanted), "released": count, "in_bucket": not waits}


@action(
    "/sagas/{saga_id}/forget",
    [SAGA_ID, _REASON, Parameter("confirm", "the saga's id once more", required=True)],
    subject=_SAGA,
    then="/erasures/{erasure_id}",
)
async def forget(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    """Erase a saga: every snapshot and replay log in every tier, for good."""
    saga_id = asked["saga_id"]
    if asked["confirm"].strip().lower() != str(saga_id):
        raise BadQuestion(f"to erase the saga for good, type its id as confirm: {saga_id}")
    return (await documents.storage.forget(saga_id, reason=asked["reason"], who=visitor.name)).to_dict()


@action("/quarantine/retry", [_ITEM], subject="{item}", then="/quarantine")
async def retry(documents: Documents, asked: Asked, _: Visitor) -> dict[str, Any]:
    """Have jobs try an item again."""
    is_there = await documents.catalog.quarantine.retry(asked["item"])
    there(is_there, f"{asked['item']!r:.200} is not in quarantine")
    return {"item": asked["item"], "state": "FAILING"}


@action("/quarantine/drop", [_ITEM], subject="{item}", then="/quarantine")
async def drop(documents: Documents, asked: Asked, _: Visitor) -> dict[str, Any]:
    """Do not report an item any more; nothing is deleted."""
    is_there = await documents.catalog.quarantine.drop(asked["item"])
    there(is_there, f"{asked['item']!r:.200} is not in quarantine")
    return {"item": asked["item"], "state": "DROPPED"}


ACTIONS: Final = (restore, cancel_restore, hold, release, forget, retry, drop)


@action("/sagas/{saga_id}/export", [SAGA_ID], subject=_SAGA, then=_SAGA_PAGE, gives="application/zip")
async def export(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    """A ZIP file of a saga that proves itself: every snapshot that can be read now, timeline, replays, holds log."""
    # Into the file `out`: what viewers may read anyway, so that they may do it too; written down as what operators do.
    saga_id = asked["saga_id"]
    there(await documents.refs(saga_id), f"no snapshots of saga {saga_id}")
    report = await documents.storage.export(asked["out"], form="zip", saga_ids=[saga_id], who=visitor.name)
    return report.to_dict()


COMPARE: Final = Endpoint(
    path="/plan",
    about="What other policies would do instead; saves nothing.",
    parameters=(Parameter("policies", "a whole configuration file, as text", "file", required=True),),
)


async def compare(documents: Documents, asked: Asked) -> dict[str, Any]:
    """What other policies would do instead; saves nothing, so viewers may ask it too. Raises ConfigError."""
    runtime, now = documents.runtime(), documents.now()
    others = PolicySet((await asyncio.to_thread(config_of, asked["policies"], "the pasted text")).policies)
    before, after = [await planned(runtime.job_context(), each, now) for each in (runtime.policies, others)]
    changed = plain(difference(before.lines, after.lines))
    return {"plan": before.to_dict(), "other": after.to_dict(), "difference": changed}
