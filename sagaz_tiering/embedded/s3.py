"""An S3 server over HTTP (moto), for demonstrations and tests.

It holds its objects in memory: they are gone when it stops. What has to last uses a `file://` cold tier.
It knows archive classes, restores and conditional writes; it checks neither credentials nor checksums.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from sagaz_tiering.embedded.process import ServerCommand
from sagaz_tiering.embedded.server import EXTRA, HOST, STOP_GRACE_S, EmbeddedServer
from sagaz_tiering.errors import ConfigError, MissingDependencyError

REGION = "us-east-1"
_TALK_S = 5.0
_PARTS = ("moto", "flask", "flask_cors")


class S3Credentials(NamedTuple):
    """What an S3 client signs with."""

    access_key_id: str
    secret_access_key: str


class S3Server(EmbeddedServer):
    """S3 in memory, in region us-east-1. `bucket` is created at every start."""

    name = "S3"
    not_ready_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    credentials = S3Credentials("embedded", "embedded-no-secret")
    """Any would do: moto compares none. It must therefore never hold anything but trial data."""

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = False,
        hold_fds: Sequence[int] = (),
        bucket: str | None = None,
    ) -> None:
        super().__init__(data_dir, durable=durable, hold_fds=hold_fds)
        self._bucket = bucket

    @property
    def endpoint(self) -> str:
        """The endpoint URL."""
        return f"http://{HOST}:{self.port}"

    def _prepare(self, deadline_s: float) -> None:
        if any(importlib.util.find_spec(part) is None for part in _PARTS):
            raise MissingDependencyError(EXTRA, "an embedded S3 server")

    def _command(self) -> ServerCommand:
        return ServerCommand(
            argv=[sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)],
            env={key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MOTO_", "SAGAZ_"))},
            cwd=self.data_dir,
            log=self.log,
            stop_signal=self.stop_signal,
            grace_s=STOP_GRACE_S,
            hold_fds=self._hold_fds,
        )

    async def _talk(self) -> None:
        import aiohttp  # whoever finds the server running needs none of it

        try:
            await self._greet()
        except aiohttp.ClientError as exc:
            raise ConnectionError(f"{type(exc).__name__}: {exc}") from exc

    async def _greet(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_TALK_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if self._bucket is None:
                async with session.get(f"{self.endpoint}/moto-api/") as answer:
                    answer.raise_for_status()
                return
            async with session.put(f"{self.endpoint}/{self._bucket}", headers=_signed_somehow()) as answer:
                if answer.status not in (200, 409):
                    said = (await answer.text())[:300]
                    raise ConfigError(f"the embedded S3 server refuses the bucket {self._bucket!r}: {said}")


def _signed_somehow() -> dict[str, str]:
    """Enough of a signature for moto to know the service and the region."""
    scope = f"{S3Server.credentials.access_key_id}/20260101/{REGION}/s3/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"}
