"""What the daemon asks of each server now and then, to know whether it can do its work."""

from __future__ import annotations

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.daemon.health import Ping
from sagaz_tiering.errors import ForeignCatalog, SagazTieringError
from sagaz_tiering.jobs.ownership import Beat
from sagaz_tiering.logs import Logger

_log = Logger(__name__)


def pings_of_servers(runtime: Runtime) -> dict[str, Ping]:
    """By server; each raises unless it answers, and Redis and PostgreSQL unless they take writes."""

    async def redis() -> None:
        await runtime.hot.connection.ping()
        await runtime.incarnation.is_same()  # which writes: one that is full or a replica answers pings

    async def postgresql() -> None:
        await check_schema(runtime.catalog.db)  # a rolling deploy may have migrated it under us
        await runtime.catalog.db.check_writable()

    return {"redis": redis, "postgresql": postgresql, "object_store": runtime.objects.check}


def ping_of_owner(runtime: Runtime) -> Ping:
    """The bucket is still ours, and copies of our catalog learn that they are not its owner."""
    beat = Beat(runtime.job_context())

    async def owner() -> None:
        try:
            await check_schema(runtime.catalog.db)
            await beat()
        except ForeignCatalog:
            raise
        except SagazTieringError as exc:  # that server's own ping tells
            _log.info("owner.not_looked_at", error=str(exc))
            return
        await runtime.storage().publish_journal()

    return owner
