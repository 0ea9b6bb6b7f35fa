"""`plan` as a document, also with other policies than those in force."""

from __future__ import annotations

import asyncio
from typing import Any

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.config.load import config_of
from sagaz_tiering.costs.difference import difference
from sagaz_tiering.operations.survey import planned
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.terminal import plain


async def plan_document(runtime: Runtime) -> dict[str, Any]:
    """What the jobs would do now."""
    return (await planned(runtime.job_context(), runtime.policies, runtime.clock.now())).to_dict()


async def compared_document(runtime: Runtime, text: str) -> dict[str, Any]:
    """What the policies of another configuration file, given as text, would do instead. Raises ConfigError."""
    others = PolicySet((await asyncio.to_thread(config_of, text, "the pasted text")).policies)
    now = runtime.clock.now()
    before, after = [await planned(runtime.job_context(), each, now) for each in (runtime.policies, others)]
    return {"plan": before.to_dict(), "other": after.to_dict(), "difference": plain(difference(before, after))}
