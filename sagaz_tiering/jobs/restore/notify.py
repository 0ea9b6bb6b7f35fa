"""Tell who waits that a restore has ended: a webhook (POST of JSON) or a command (JSON on its stdin)."""

from __future__ import annotations

import asyncio

import orjson

from sagaz_tiering.catalog.restores import Restore
from sagaz_tiering.config.sections import RestoreSettings
from sagaz_tiering.logs import Logger

_log = Logger(__name__)
_DEADLINE_S = 30.0
ATTEMPTS = 5
"""So often somebody who cannot be told is told again, a run of the job each."""


async def tell(settings: RestoreSettings, restore: Restore) -> bool:
    """True when everybody who should know was told; False is to be tried again."""
    document = orjson.dumps({"event": "restore.ended", **restore.to_dict()})
    told = True
    if settings.webhook is not None:
        told = await _post(settings.webhook.get_secret_value(), document) and told
    if settings.command:
        told = await _run(settings.command, document) and told
    return told


async def _post(url: str, document: bytes) -> bool:
    import aiohttp  # few processes ever get here, and it takes a tenth of a second and ten megabytes

    try:
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=document, headers={"Content-Type": "application/json"}) as answer,
        ):
            if answer.status < 300:
                return True
            _log.warning("webhook.refused", status=answer.status)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
        _log.warning("webhook.failed", error=str(exc) or type(exc).__name__)
    return False


async def _run(command: tuple[str, ...], document: bytes) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    except OSError as exc:
        _log.warning("notify_command.failed", command=command[0], error=str(exc))
        return False
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await process.communicate(document)
    except TimeoutError:
        process.kill()
        await process.wait()
    if process.returncode:
        _log.warning("notify_command.failed", command=command[0], code=process.returncode)
    return process.returncode == 0
