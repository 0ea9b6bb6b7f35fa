"""What operators can do: restore, hold, release, forget, retry; each the same call as the command line's."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.catalog.holds import Coverage
from sagaz_tiering.catalog.restores import RETRIEVALS, Wanted
from sagaz_tiering.config.load import config_of
from sagaz_tiering.console.access import Visitor
from sagaz_tiering.console.documents import Documents
from sagaz_tiering.console.routes import Action, Asked, BadQuestion, NotThere, Parameter, there
from sagaz_tiering.console.saga_views import SAGA_ID
from sagaz_tiering.costs.lines import difference
from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.operations.survey import planned
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.terminal import document, plain

_REASON: Final = Parameter(name="reason", about="the case or order that asks for it", required=True)


async def _restore(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    snapshot = asked["snapshot_id"]
    wanted = Wanted(saga_ids=[asked["saga_id"]], snapshot_ids=None if snapshot is None else [snapshot])
    restorer = documents.runtime().storage().restorer
    found = await restorer.request(wanted, tier=asked["tier"], days=asked["days"], who=visitor.name)
    return there(found, "nothing of that is in a pack; what is in Redis or PostgreSQL needs no restore").to_dict()


async def _cancel_restore(documents: Documents, asked: Asked, _: Visitor) -> dict[str, Any]:
    is_cancelled = await documents.runtime().storage().cancel_restore(asked["restore_id"])
    there(is_cancelled, f"no restore {asked['restore_id']} is under way")
    return {"restore_id": str(asked["restore_id"]), "state": "CANCELLED"}


async def _hold(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    storage, saga_id = documents.runtime().storage(), asked["saga_id"]
    try:
        covered = await storage.covered(saga_id)
    except HotTierUnavailable:  # a hold must not wait for Redis
        covered = Coverage(exact=False)
    if covered.is_nothing:
        raise NotThere(f"nothing is held: no tier has a snapshot of saga {saga_id}")
    placed = await storage.holder.hold(saga_id, reason=asked["reason"], who=visitor.name)
    waits = await storage.publish_journal()
    return {**placed.to_dict(), "covers": document(covered, "snapshots"), "in_bucket": not waits}


async def _release(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    runtime, wanted = documents.runtime(), asked["hold_id"]
    found = [hold for hold in await runtime.catalog.holds.named(wanted) if hold.hold_id == wanted]
    there(found, f"no hold {wanted} is in force")
    count = await runtime.storage().holder.release(found, reason=asked["reason"], who=visitor.name)
    waits = await runtime.storage().publish_journal()
    return {"hold_id": str(wanted), "released": count, "in_bucket": not waits}


async def _forget(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    saga_id: UUID = asked["saga_id"]
    if asked["confirm"].strip().lower() != str(saga_id):
        raise BadQuestion(f"to erase the saga for good, type its id as confirm: {saga_id}")
    receipt = await documents.runtime().storage().forget(saga_id, reason=asked["reason"], who=visitor.name)
    return receipt.to_dict()


async def _export(documents: Documents, asked: Asked, visitor: Visitor) -> dict[str, Any]:
    """Into the file `out`."""
    storage, saga_id = documents.runtime().storage(), asked["saga_id"]
    there(await documents.refs(saga_id), f"no snapshots of saga {saga_id}")
    report = await storage.export(asked["out"], form="zip", saga_ids=[saga_id], who=visitor.name)
    return report.to_dict()


async def _retry(documents: Documents, asked: Asked, _: Visitor) -> dict[str, Any]:
    is_there = await documents.runtime().catalog.quarantine.retry(asked["item"])
    there(is_there, f"{asked['item']!r:.200} is not in quarantine")
    return {"item": asked["item"], "state": "FAILING"}


async def _drop(documents: Documents, asked: Asked, _: Visitor) -> dict[str, Any]:
    is_there = await documents.runtime().catalog.quarantine.drop(asked["item"])
    there(is_there, f"{asked['item']!r:.200} is not in quarantine")
    return {"item": asked["item"], "state": "DROPPED"}


async def compare(documents: Documents, asked: Asked) -> dict[str, Any]:
    """What other policies would do instead; saves nothing, so viewers may ask it too. Raises ConfigError."""
    runtime, now = documents.runtime(), documents.now()
    others = PolicySet((await asyncio.to_thread(config_of, asked["policies"], "the pasted text")).policies)
    before, after = [await planned(runtime.job_context(), each, now) for each in (runtime.policies, others)]
    return {
        "plan": before.to_dict(),
        "other": after.to_dict(),
        "difference": plain(difference(before.lines, after.lines)),
    }


COMPARE_PARAMETERS: Final = (
    Parameter(name="policies", about="a whole configuration file, as text", kind="file", required=True),
)

EXPORT: Final = Action(
    path="/sagas/{saga_id}/export",
    name="export",
    about="A ZIP file of a saga that proves itself: every snapshot that can be read now, timeline, replays, holds log.",
    do=_export,
    subject=lambda asked: f"saga {asked['saga_id']}",
    then=lambda asked, _: f"/sagas/{asked['saga_id']}",
    parameters=(SAGA_ID,),
)
"""Hands over what viewers may read anyway, so that they may do it too; written down as what operators do."""

_ITEM: Final = Parameter(name="item", about="object key or snapshot id", required=True)

ACTIONS: Final = (
    Action(
        path="/sagas/{saga_id}/restore",
        name="restore",
        about="Ask for what is archived of a saga, or for one snapshot, to come back.",
        do=_restore,
        subject=lambda asked: " ".join(
            [f"saga {asked['saga_id']}", *([f"snapshot {asked['snapshot_id']}"] if asked["snapshot_id"] else [])]
        ),
        then=lambda _, done: f"/restores/{done['restore_id']}",
        parameters=(
            SAGA_ID,
            Parameter(name="snapshot_id", about="only this snapshot", kind="uuid"),
            Parameter(name="tier", about="how fast", choices=RETRIEVALS),
            Parameter(name="days", about="how long it stays", kind="int", least=1, most=3650),
        ),
    ),
    Action(
        path="/restores/{restore_id}/cancel",
        name="cancel restore",
        about="End a restore; what S3 was asked for is billed all the same.",
        do=_cancel_restore,
        subject=lambda asked: f"restore {asked['restore_id']}",
        then=lambda asked, _: f"/restores/{asked['restore_id']}",
        parameters=(Parameter(name="restore_id", about="id of the restore", kind="uuid", required=True),),
    ),
    Action(
        path="/sagas/{saga_id}/hold",
        name="hold",
        about="Place a legal hold: nothing of the saga expires or can be deleted until it is released.",
        do=_hold,
        subject=lambda asked: f"saga {asked['saga_id']}",
        then=lambda asked, _: f"/sagas/{asked['saga_id']}",
        parameters=(SAGA_ID, _REASON),
    ),
    Action(
        path="/holds/{hold_id}/release",
        name="release",
        about="End a legal hold.",
        do=_release,
        subject=lambda asked: f"hold {asked['hold_id']}",
        then=lambda *_: "/holds",
        parameters=(Parameter(name="hold_id", about="id of the hold", kind="uuid", required=True), _REASON),
    ),
    Action(
        path="/sagas/{saga_id}/forget",
        name="forget",
        about="Erase a saga: every snapshot and replay log in every tier, for good.",
        do=_forget,
        subject=lambda asked: f"saga {asked['saga_id']}",
        then=lambda _, done: f"/erasures/{done['erasure_id']}",
        parameters=(
            SAGA_ID,
            _REASON,
            Parameter(name="confirm", about="the saga's id once more", required=True),
        ),
    ),
    Action(
        path="/quarantine/retry",
        name="retry",
        about="Have jobs try an item again.",
        do=_retry,
        subject=lambda asked: str(asked["item"]),
        then=lambda *_: "/quarantine",
        parameters=(_ITEM,),
    ),
    Action(
        path="/quarantine/drop",
        name="drop",
        about="Do not report an item any more; nothing is deleted.",
        do=_drop,
        subject=lambda asked: str(asked["item"]),
        then=lambda *_: "/quarantine",
        parameters=(_ITEM,),
    ),
)
