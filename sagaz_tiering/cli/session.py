"""One command's run: quiet logs, an event loop that signals can end, errors turned into an exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from sagaz_tiering.app.process import ignore_abandoned_connects
from sagaz_tiering.cli.failures import report
from sagaz_tiering.cli.options import locate_config

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.storage.base import SnapshotStorage

INTERRUPTED = 130
TERMINATED = 143


def execute(work: Callable[[], Awaitable[int | None]], *, as_json: bool, debug: bool) -> NoReturn:
    """Run `work` to its end and leave with its exit code (None: 0); errors are reported, Ctrl-C is 130."""
    _quiet_logs(debug)
    try:
        code = asyncio.run(_until_terminated(work))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as exc:  # noqa: BLE001  # the CLI ends here
        code = report(exc, as_json=as_json, debug=debug)
    raise typer.Exit(code or 0)


async def _until_terminated(work: Callable[[], Awaitable[int | None]]) -> int | None:
    """SIGTERM unwinds `work` as Ctrl-C does, so that embedded servers and leases are given up."""
    task, terminated = asyncio.current_task(), False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        if task is not None:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    ignore_abandoned_connects()
    try:
        return await work()
    except asyncio.CancelledError:
        if terminated:
            return TERMINATED
        raise


@asynccontextmanager
async def opened(config_path: Path | None) -> AsyncIterator[Runtime]:
    """Everything that the configuration names, opened; nothing is asked of a server yet."""
    path = locate_config(config_path)
    from sagaz_tiering.app.runtime import open_runtime
    from sagaz_tiering.config.load import load_config

    async with open_runtime(load_config(path)) as runtime:
        yield runtime


@asynccontextmanager
async def opened_storage(config_path: Path | None, url: str | None) -> AsyncIterator[SnapshotStorage]:
    """The storage that `url` names, else the tiered one of the configuration."""
    if url is not None:
        from sagaz_tiering.app.storage_url import open_storage

        async with open_storage(url) as storage:
            yield storage
        return
    async with opened(config_path) as runtime:
        await check_schema_if_reachable(runtime)
        yield runtime.storage()


async def check_schema_if_reachable(runtime: Runtime) -> None:
    """Raise SchemaMismatch for a database without the right catalog; one that is down is the reader's to judge."""
    from sagaz_tiering.catalog.migrations import check_schema
    from sagaz_tiering.errors import CatalogUnavailable

    try:
        await check_schema(runtime.db)
    except CatalogUnavailable:
        return


def _quiet_logs(debug: bool) -> None:
    """Logs on stderr, from warnings up: stdout is for the answer. Libraries do not join in with --debug."""
    import structlog

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
