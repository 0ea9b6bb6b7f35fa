"""What the server of `support.forked` has imported and read before it forks anybody."""

from __future__ import annotations

import asyncio
import gc

import rich.table  # noqa: F401
import structlog  # noqa: F401

import sagaz_tiering.cli.app
import sagaz_tiering.storage.filesystem.storage
import sagaz_tiering.storage.postgresql.storage
import sagaz_tiering.storage.redis.storage
import sagaz_tiering.storage.s3.storage  # noqa: F401
from sagaz_tiering.drivers.aws import aws_session
from support import saver, stores, tiers  # noqa: F401


async def _read_what_s3_is() -> None:
    """The SDK's descriptions, which are kept."""
    async with aws_session(access_key_id="a", secret_access_key="s").client("s3", region_name="us-east-1"):
        pass


asyncio.run(_read_what_s3_is())
gc.freeze()  # no process that is forked looks through all of this for garbage
