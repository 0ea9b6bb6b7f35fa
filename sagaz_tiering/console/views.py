"""What there is to look at, page by page."""

from __future__ import annotations

from typing import Any, Final

from sagaz_tiering.catalog.history import NEWEST
from sagaz_tiering.catalog.surveys import NEWEST as NEWEST_PACK
from sagaz_tiering.console.documents import Documents
from sagaz_tiering.console.routes import Asked, ConsoleView, Parameter, says, there
from sagaz_tiering.console.saga_views import SAGA_VIEWS
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import plain

_PAGE: Final = 50
_FRAMES: Final = 100
LIMIT: Final = Parameter(name="limit", about="so many", kind="int", default=_PAGE, least=1, most=1000)
_STATES: Final = ("UPLOADING", "ACTIVE", "RETIRING", "DELETED", "ABANDONED")


async def _policies(documents: Documents, _: Asked) -> dict[str, Any]:
    return documents.policies()


async def _plan_page(_: Documents, __: Asked) -> dict[str, Any]:
    return {}


async def _plan(documents: Documents, _: Asked) -> dict[str, Any]:
    return {"plan": await documents.plan()}


async def _restores(documents: Documents, asked: Asked) -> dict[str, Any]:
    found = await documents.runtime().catalog.restores.newest(asked["limit"])
    return {"restores": [one.to_dict() for one in found]}


async def _restore(documents: Documents, asked: Asked) -> dict[str, Any]:
    found = await documents.runtime().catalog.restores.get(asked["restore_id"])
    return there(found, f"no restore {asked['restore_id']}").to_dict()


async def _holds(documents: Documents, asked: Asked) -> dict[str, Any]:
    holds, limit = documents.runtime().catalog.holds, asked["limit"]
    found, following = await holds.page(limit, asked["cursor"])
    log = await holds.entries(limit + 1, asked["before"])
    return {
        "holds": [{**one.to_dict(), "subject": one.subject} for one in found],
        "next": following,
        "log": plain(log[:limit]),
        "before": log[limit - 1]["entry_id"] if len(log) > limit else None,
    }


async def _erasures(documents: Documents, asked: Asked) -> dict[str, Any]:
    return {"erasures": [one.to_dict() for one in await documents.runtime().catalog.erasures.newest(asked["limit"])]}


async def _erasure(documents: Documents, asked: Asked) -> dict[str, Any]:
    found = await documents.runtime().catalog.erasures.receipt(asked["erasure_id"])
    return there(found, f"no erasure {asked['erasure_id']}").to_dict()


async def _quarantine(documents: Documents, asked: Asked) -> dict[str, Any]:
    catalog = documents.runtime().catalog
    return {"items": plain(await catalog.quarantine.items(asked["limit"], dropped_too=asked["dropped"]))}


async def _packs(documents: Documents, asked: Asked) -> dict[str, Any]:
    runtime, limit = documents.runtime(), asked["limit"]
    found = await runtime.catalog.pack_list.page(
        limit, asked["before"], storage_class=asked["storage_class"], state=asked["state"]
    )
    return {"packs": found, "before": found[-1]["pack_id"] if len(found) == limit else None}


async def _pack(documents: Documents, asked: Asked) -> dict[str, Any]:
    runtime, limit = documents.runtime(), asked["limit"]
    found = there(await runtime.catalog.pack_list.one(asked["pack_id"]), f"no pack {asked['pack_id']}")
    frames = await runtime.catalog.pack_list.frames(asked["pack_id"], limit, asked["after"])
    usd = runtime.prices.monthly_usd(
        StorageClass(found["storage_class"]), object_count=1, total_bytes=found["byte_size"]
    )
    after = frames[-1]["frame_no"] if len(frames) == limit else None
    return {**found, "usd_per_month": usd, "frames": frames, "after": after}


async def _audit(documents: Documents, asked: Asked) -> dict[str, Any]:
    entries = await documents.runtime().catalog.audit.page(asked["limit"], asked["before"])
    return {"entries": plain(entries), "before": entries[-1].audit_id if len(entries) == asked["limit"] else None}


VIEWS: Final = (
    ConsoleView(
        path="/",
        title="Overview",
        template="overview.html",
        about="What is in each tier and what it costs, what the jobs did, what waits, whether all is well.",
        command=says("sagaz-tiering status"),
        document=lambda documents, _: documents.overview(),
    ),
    *SAGA_VIEWS,
    ConsoleView(
        path="/policies",
        title="Policies",
        template="policies.html",
        about="The policies in force, in order: the first that matches rules.",
        command=says("sagaz-tiering policy check"),
        document=_policies,
    ),
    ConsoleView(
        path="/plan",
        title="Plan",
        template="plan.html",
        about="Where the plan is to be had, and others are compared with it.",
        command=says("sagaz-tiering plan"),
        document=_plan_page,
    ),
    ConsoleView(
        path="/plan/now",
        title="Plan",
        template="plan_now.html",
        about="What the jobs would do now, what that costs and saves.",
        command=says("sagaz-tiering plan"),
        document=_plan,
        is_fragment=True,
    ),
    ConsoleView(
        path="/restores",
        title="Restores",
        template="restores.html",
        about="Requests to bring archived snapshots back, the newest first.",
        command=says("sagaz-tiering restores"),
        document=_restores,
        parameters=(LIMIT,),
    ),
    ConsoleView(
        path="/restores/{restore_id}",
        title="Restore",
        template="restore.html",
        about="One restore, and how far it is.",
        command=says("sagaz-tiering restores {restore_id}"),
        document=_restore,
        parameters=(Parameter(name="restore_id", about="id of the restore", kind="uuid", required=True),),
    ),
    ConsoleView(
        path="/holds",
        title="Legal holds",
        template="holds.html",
        about="Holds in force, and the log of all that were placed and released.",
        command=says("sagaz-tiering holds --log"),
        document=_holds,
        parameters=(
            LIMIT,
            Parameter(name="cursor", about="holds in force behind the `next` of the page before"),
            Parameter(name="before", about="only older entries of the log", kind="int", most=NEWEST),
        ),
    ),
    ConsoleView(
        path="/erasures",
        title="Erasures",
        template="erasures.html",
        about="Sagas that were forgotten, the newest first.",
        command=says("sagaz-tiering erasures"),
        document=_erasures,
        parameters=(LIMIT,),
    ),
    ConsoleView(
        path="/erasures/{erasure_id}",
        title="Erasure receipt",
        template="erasure.html",
        about="What an erasure removed, and what is physically left until when.",
        command=says("sagaz-tiering erasures {erasure_id}"),
        document=_erasure,
        parameters=(Parameter(name="erasure_id", about="id of the erasure", kind="uuid", required=True),),
    ),
    ConsoleView(
        path="/quarantine",
        title="Quarantine",
        template="quarantine.html",
        about="What jobs found wrong or gave up.",
        command=says("sagaz-tiering quarantine list"),
        document=_quarantine,
        parameters=(
            LIMIT,
            Parameter(name="dropped", about="also what was dropped", kind="flag", default=False),
        ),
    ),
    ConsoleView(
        path="/packs",
        title="Packs",
        template="packs.html",
        about="Objects of the cold tier, the newest first.",
        command=says("sagaz-tiering status"),
        document=_packs,
        parameters=(
            LIMIT,
            Parameter(name="before", about="only older ones", kind="int", default=NEWEST_PACK, most=NEWEST_PACK),
            Parameter(name="storage_class", about="of this class", choices=tuple(each.value for each in StorageClass)),
            Parameter(name="state", about="in this state", choices=_STATES),
        ),
    ),
    ConsoleView(
        path="/packs/{pack_id}",
        title="Pack",
        template="pack.html",
        about="One pack, and the frames in it.",
        command=says("sagaz-tiering status"),
        document=_pack,
        parameters=(
            Parameter(name="pack_id", about="number of the pack", kind="int", required=True, most=NEWEST_PACK - 1),
            Parameter(name="limit", about="so many frames", kind="int", default=_FRAMES, least=1, most=1000),
            Parameter(name="after", about="frames after this one", kind="int", default=-1, least=-1, most=NEWEST_PACK),
        ),
    ),
    ConsoleView(
        path="/audit",
        title="Audit",
        template="audit.html",
        about="Who changed something in this console, the newest first.",
        command=says("psql -c 'TABLE sagaz_tiering.console_audit'"),
        document=_audit,
        parameters=(
            LIMIT,
            Parameter(name="before", about="only older ones", kind="int", default=NEWEST, most=NEWEST),
        ),
    ),
)
