"""What there is to look at, page by page."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any, Final

from sagaz_tiering.catalog.history import NEWEST
from sagaz_tiering.catalog.surveys import NEWEST as NEWEST_PACK
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.console.actions import ACTIONS, COMPARE, export
from sagaz_tiering.console.documents import Documents
from sagaz_tiering.console.routes import Asked, Parameter, described, id_of, there, view
from sagaz_tiering.console.saga_views import SAGA_VIEWS
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import plain

LIMIT: Final = Parameter("limit", "so many", "int", default=50, least=1, most=1000)
_STATES: Final = ("UPLOADING", "ACTIVE", "RETIRING", "DELETED", "ABANDONED")


@view("/", "Overview", "sagaz-tiering status")
async def overview(documents: Documents, _: Asked) -> dict[str, Any]:
    """What is in each tier and what it costs, what the jobs did, what waits, whether all is well."""
    return await documents.overview()


@view("/policies", "Policies", "sagaz-tiering policy check")
async def policies(documents: Documents, _: Asked) -> dict[str, Any]:
    """The policies in force, in order: the first that matches rules."""
    in_force = documents.runtime().policies
    found = [
        {
            "name": policy.name,
            "matches": policy.match.text,
            "durability": policy.durability.value,
            "moves": [{"to": move.to.value, "after": format_duration(move.after)} for move in policy.move],
            "retain": format_duration(policy.retain) if isinstance(policy.retain, timedelta) else policy.retain,
            **{name: getattr(policy, name) for name in ("retention", "clock", "encryption", "rewrite")},
        }
        for policy in in_force.policies
    ]
    return {"revision": in_force.revision, "policies": found}


@view("/plan", "Plan", "sagaz-tiering plan")
async def plan(_: Documents, __: Asked) -> dict[str, Any]:
    """Where the plan is to be had, and others are compared with it."""
    return {}


@view("/plan/now", "Plan", "sagaz-tiering plan", is_fragment=True)
async def plan_now(documents: Documents, _: Asked) -> dict[str, Any]:
    """What the jobs would do now, what that costs and saves."""
    return {"plan": await documents.plan()}


@view("/restores", "Restores", "sagaz-tiering restores", [LIMIT])
async def restores(documents: Documents, asked: Asked) -> dict[str, Any]:
    """Requests to bring archived snapshots back, the newest first."""
    return {"restores": plain(await documents.catalog.restores.newest(asked["limit"]))}


@view("/restores/{restore_id}", "Restore", "sagaz-tiering restores {restore_id}", [id_of("restore")])
async def restore(documents: Documents, asked: Asked) -> dict[str, Any]:
    """One restore, and how far it is."""
    found = await documents.catalog.restores.get(asked["restore_id"])
    return there(found, f"no restore {asked['restore_id']}").to_dict()


@view(
    "/holds",
    "Legal holds",
    "sagaz-tiering holds --log",
    [
        LIMIT,
        Parameter("cursor", "holds in force behind the `next` of the page before"),
        Parameter("before", "only older entries of the log", "int", most=NEWEST),
    ],
)
async def holds(documents: Documents, asked: Asked) -> dict[str, Any]:
    """Holds in force, and the log of all that were placed and released."""
    known, limit = documents.catalog.holds, asked["limit"]
    found, following = await known.page(limit, asked["cursor"])
    log = await known.entries(limit + 1, asked["before"])
    return {
        "holds": [{**one.to_dict(), "subject": one.subject} for one in found],
        "next": following,
        "log": plain(log[:limit]),
        "before": log[limit - 1]["entry_id"] if len(log) > limit else None,
    }


@view("/erasures", "Erasures", "sagaz-tiering erasures", [LIMIT])
async def erasures(documents: Documents, asked: Asked) -> dict[str, Any]:
    """Sagas that were forgotten, the newest first."""
    return {"erasures": plain(await documents.catalog.erasures.newest(asked["limit"]))}


@view("/erasures/{erasure_id}", "Erasure receipt", "sagaz-tiering erasures {erasure_id}", [id_of("erasure")])
async def erasure(documents: Documents, asked: Asked) -> dict[str, Any]:
    """What an erasure removed, and what is physically left until when."""
    found = await documents.catalog.erasures.receipt(asked["erasure_id"])
    return there(found, f"no erasure {asked['erasure_id']}").to_dict()


@view(
    "/quarantine",
    "Quarantine",
    "sagaz-tiering quarantine list",
    [LIMIT, Parameter("dropped", "also what was dropped", "flag", default=False)],
)
async def quarantine(documents: Documents, asked: Asked) -> dict[str, Any]:
    """What jobs found wrong or gave up."""
    return {"items": plain(await documents.catalog.quarantine.items(asked["limit"], dropped_too=asked["dropped"]))}


@view(
    "/packs",
    "Packs",
    "sagaz-tiering status",
    [
        LIMIT,
        Parameter("before", "only older ones", "int", default=NEWEST_PACK, most=NEWEST_PACK),
        Parameter("storage_class", "of this class", choices=tuple(each.value for each in StorageClass)),
        Parameter("state", "in this state", choices=_STATES),
    ],
)
async def packs(documents: Documents, asked: Asked) -> dict[str, Any]:
    """Objects of the cold tier, the newest first."""
    limit, of = asked["limit"], {name: asked[name] for name in ("storage_class", "state")}
    found = await documents.catalog.pack_list.page(limit, asked["before"], **of)
    return {"packs": found, "before": found[-1]["pack_id"] if len(found) == limit else None}


@view(
    "/packs/{pack_id}",
    "Pack",
    "sagaz-tiering status",
    [
        Parameter("pack_id", "number of the pack", "int", required=True, most=NEWEST_PACK - 1),
        Parameter("limit", "so many frames", "int", default=100, least=1, most=1000),
        Parameter("after", "frames after this one", "int", default=-1, least=-1, most=NEWEST_PACK),
    ],
)
async def pack(documents: Documents, asked: Asked) -> dict[str, Any]:
    """One pack, and the frames in it."""
    known, limit = documents.catalog.pack_list, asked["limit"]
    found = there(await known.one(asked["pack_id"]), f"no pack {asked['pack_id']}")
    frames = await known.frames(asked["pack_id"], limit, asked["after"])
    storage_class, monthly_usd = StorageClass(found["storage_class"]), documents.runtime().prices.monthly_usd
    usd = monthly_usd(storage_class, object_count=1, total_bytes=found["byte_size"])
    after = frames[-1]["frame_no"] if len(frames) == limit else None
    return {**found, "usd_per_month": usd, "frames": frames, "after": after}


@view(
    "/audit",
    "Audit",
    "psql -c 'TABLE sagaz_tiering.console_audit'",
    [LIMIT, Parameter("before", "only older ones", "int", default=NEWEST, most=NEWEST)],
)
async def audit(documents: Documents, asked: Asked) -> dict[str, Any]:
    """Who changed something in this console, the newest first."""
    entries = await documents.catalog.audit.page(asked["limit"], asked["before"])
    return {"entries": plain(entries), "before": entries[-1].audit_id if len(entries) == asked["limit"] else None}


VIEWS: Final = (
    *(overview, *SAGA_VIEWS, policies, plan, plan_now, restores, restore, holds, erasures, erasure, quarantine),
    *(packs, pack, audit),
)


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document of `/api/v1`, of all that can be looked at and done."""
    return described(VIEWS, (*ACTIONS, COMPARE, export))
