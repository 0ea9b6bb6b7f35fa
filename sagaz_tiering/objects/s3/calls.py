"""Every request to S3 goes through here: a connection slot, a deadline, a bounded number of attempts."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botocore import xform_name

from sagaz_tiering import metrics
from sagaz_tiering.drivers import traces
from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.errors import CredentialsUnavailable, SagazTieringError
from sagaz_tiering.objects.s3.answers import DRIVER_ERRORS, Asked, late, translated
from sagaz_tiering.objects.s3.options import S3Options

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

T = TypeVar("T")

MAX_BACKOFF_SECONDS = 5.0
_IN_USE = metrics.POOL_IN_USE.labels(server="object_store")
_TELLING = ("GetObject", "HeadObject")
"""What these answer tells the class of the object, unless it is STANDARD."""


class S3Calls:
    """One open client, the rules under which it is used, and what was learnt of the bucket by the way."""

    def __init__(self, client: S3Client, options: S3Options) -> None:
        self.client = client
        self.options = options
        self.home = HomeLoop(self)
        self.keeps_versions: bool | None = None
        self.takes_conditions = True
        self._slots = asyncio.Semaphore(options.max_connections)

    async def ask(
        self,
        operation: str,
        *,
        key: str = "",
        body: bytes | bytearray | None = None,
        attempts: int | None = None,
        **arguments: Any,
    ) -> Any:
        """The SDK's answer to an operation on the bucket, or on the full key `key` in it; raises as `run`."""
        method = getattr(self.client, xform_name(operation))
        asked = {"Bucket": self.options.bucket, **({"Key": key} if key else {}), **arguments}

        async def attempt() -> Any:
            # A file-like body makes the SDK wait for "100 Continue": a store that refuses gets no bytes.
            return await method(**asked, **({} if body is None else {"Body": io.BytesIO(body)}))

        told = arguments.get("StorageClass", "")
        return await self.run(operation, attempt, key=key, attempts=attempts, storage_class=told)

    async def run(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        key: str = "",
        attempts: int | None = None,
        storage_class: str = "",
    ) -> T:
        """What `attempt` answers, asked up to `attempts` times (default: the options') within one deadline.

        Only failures that asking again may cure are repeated, with full jitter. More callers than connections
        wait for a slot; the wait is outside the deadline, so that load alone fails nobody.

        Raises WrongEventLoop, and the errors of `s3.answers`; ColdTierUnavailable once the deadline has passed.
        """
        self.home.check()
        asked = Asked(operation=operation, key=key)
        rounds = self.options.attempts if attempts is None else attempts
        about = {"rpc__method": operation, "aws__s3__bucket": self.options.bucket, "aws__s3__key": key or None}
        async with self._slots:
            with _IN_USE.track_inprogress(), traces.span(f"s3 {operation}", **about):
                measured = partial(self._measured, asked, attempt, storage_class)
                return await self._within_deadline(asked, measured, rounds)

    async def _within_deadline(self, asked: Asked, attempt: Callable[[], Awaitable[T]], rounds: int) -> T:
        met: SagazTieringError | None = None
        try:
            async with asyncio.timeout(self.options.settings.request_timeout.total_seconds()):
                for before in range(rounds):
                    if before:
                        metrics.S3_RETRIES.labels(operation=asked.operation).inc()
                        ceiling_s = self.options.backoff.total_seconds() * 2 ** (before - 1)
                        await asyncio.sleep(random.uniform(0, min(MAX_BACKOFF_SECONDS, ceiling_s)))
                    try:
                        return await attempt()
                    except DRIVER_ERRORS as exc:
                        met = translated(exc, asked, self.options)
                        # Credentials come in minutes, and the next call looks for them again.
                        if met.permanent or isinstance(met, CredentialsUnavailable) or before + 1 == rounds:
                            raise met from exc
        except TimeoutError as exc:
            raise late(asked, self.options, met) from exc
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _measured(self, asked: Asked, attempt: Callable[[], Awaitable[T]], storage_class: str) -> T:
        began, outcome = time.perf_counter(), "cut_short"
        try:
            answer = await attempt()
            outcome, storage_class = "ok", storage_class or _class_of(asked.operation, answer)
        except DRIVER_ERRORS as exc:
            outcome = type(translated(exc, asked, self.options)).__name__
            raise
        finally:
            labels = {"operation": asked.operation, "outcome": outcome, "storage_class": storage_class}
            metrics.S3_SECONDS.labels(**labels).observe(time.perf_counter() - began)
        return answer


def _class_of(operation: str, answer: Any) -> str:
    if operation not in _TELLING:
        return ""
    head = answer[0] if isinstance(answer, tuple) else answer
    return str(head.get("StorageClass") or "STANDARD") if isinstance(head, dict) else ""
