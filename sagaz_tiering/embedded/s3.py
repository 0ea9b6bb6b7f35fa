"""An S3 server over HTTP (moto), for demonstrations and tests.

It holds its objects in memory: they are gone when it stops. What has to last uses a `file://` cold tier.
It knows archive classes, restores and conditional writes; it takes requests that are signed with its own key (see
`s3_app`), and checks no checksums. Root's runs as an unprivileged account.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from sagaz_tiering.embedded.account import Account, unprivileged_account
from sagaz_tiering.embedded.server import EXTRA, HOST, EmbeddedServer, ServerCommand
from sagaz_tiering.errors import MissingDependencyError

_PARTS = ("moto", "flask", "flask_cors")


class S3Credentials(NamedTuple):
    """What an S3 client signs with."""

    access_key_id: str
    secret_access_key: str


class S3Server(EmbeddedServer):
    """S3 in memory, in region us-east-1. `bucket` is created at every start."""

    name = "S3"
    not_ready_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)

    def __init__(
        self, data_dir: Path, *, durable: bool = False, hold_fds: Sequence[int] = (), bucket: str | None = None
    ) -> None:
        super().__init__(data_dir, durable=durable, hold_fds=hold_fds)
        self._bucket = bucket
        self.credentials = S3Credentials("embedded", secrets.token_urlsafe(24))
        self._account: Account | None = None

    @property
    def endpoint(self) -> str:
        """The endpoint URL."""
        return f"http://{HOST}:{self.port}"

    def _prepare(self, deadline_s: float) -> None:
        if any(importlib.util.find_spec(part) is None for part in _PARTS):
            raise MissingDependencyError(EXTRA, "an embedded S3 server")
        self._account = unprivileged_account()

    def _command(self) -> ServerCommand:
        from sagaz_tiering.embedded import s3_app  # and botocore

        uid, gid = (0, 0) if self._account is None else (self._account.uid, self._account.gid)
        ours = {s3_app.KEY_ID: self.credentials.access_key_id, s3_app.SECRET: self.credentials.secret_access_key}
        env = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MOTO_", "SAGAZ_"))}
        argv = [sys.executable, "-m", s3_app.__name__, *map(str, (self.port, uid, gid))]
        if self._bucket is not None:
            argv.append(self._bucket)
        env |= ours | {"MOTO_PORT": str(self.port), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return ServerCommand(argv=argv, env=env, cwd=self.data_dir)

    async def _talk(self) -> None:
        from sagaz_tiering.embedded.s3_app import READY

        if self._process is None or READY not in self._process.log_tail():  # who answers may be another one
            raise ConnectionError("it is not ready")
