"""Real S3 servers for tests: moto as a process of its own, and a scripted HTTP server for what moto never does."""

from __future__ import annotations

import asyncio
import io
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import aiohttp
import pytest
from pydantic import SecretStr
from yarl import URL

from sagaz_tiering.config.tiers import ColdSettings
from sagaz_tiering.drivers.aws import aws_session
from sagaz_tiering.objects.s3.options import S3Options
from support.listening import end

START_SECONDS = 300


def s3_options(endpoint: str, bucket: str, **changes: Any) -> S3Options:
    """Options for a test server: short deadlines, quick retries."""
    section: dict[str, Any] = {
        "region": "us-east-1",
        "endpoint_url": endpoint,
        "access_key_id": SecretStr("testing"),
        "secret_access_key": SecretStr("testing-secret"),
        "request_timeout": timedelta(seconds=20),
    }
    section |= {name: changes.pop(name) for name in list(changes) if name in ColdSettings.model_fields}
    settings = ColdSettings(url="s3://bucket").model_copy(update=section)
    given = {"prefix": "env/production", "backoff": timedelta(milliseconds=2), **changes}
    return S3Options(bucket=bucket, settings=settings, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running moto server."""

    endpoint: str

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        """A plain SDK client, to look behind the store's back."""
        # Unlike a session of the SDK's own, it has read what S3 is.
        session = aws_session(access_key_id="testing", secret_access_key="testing-secret")
        async with session.client("s3", endpoint_url=self.endpoint, region_name="us-east-1") as client:
            yield client

    async def make_bucket(self, versioning: str | None = None) -> str:
        """A new bucket's name; `versioning` is None, "Enabled" or "Suspended"."""
        bucket = f"test-{uuid4().hex}"
        async with aiohttp.ClientSession() as session:  # an SDK client takes longer to build than to use
            async with session.put(f"{self.endpoint}/{bucket}") as response:
                response.raise_for_status()
            if versioning:
                body = f"<VersioningConfiguration><Status>{versioning}</Status></VersioningConfiguration>"
                async with session.put(f"{self.endpoint}/{bucket}?versioning", data=body) as response:
                    response.raise_for_status()
        return bucket

    async def versions(self, bucket: str) -> list[dict[str, Any]]:
        """Every version and delete marker in the bucket."""
        async with self.admin() as client:
            page = await client.list_object_versions(Bucket=bucket)
            return [*page.get("Versions", []), *page.get("DeleteMarkers", [])]

    async def uploads(self, bucket: str) -> list[dict[str, Any]]:
        """Multipart uploads that were neither completed nor aborted."""
        async with self.admin() as client:
            return list((await client.list_multipart_uploads(Bucket=bucket)).get("Uploads", []))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A moto server of its own process, started once per test session."""
    process, server = _start()
    yield server
    process.kill()  # it has nothing to save, and takes half a minute to free what tests left
    process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start() -> tuple[subprocess.Popen[bytes], S3Server]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("moto_process.py")), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/moto-api/")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.05)
        else:
            return process, S3Server(endpoint=f"http://127.0.0.1:{port}")
        finally:
            connection.close()
    process.kill()
    process.wait()
    raise RuntimeError(f"moto_server did not answer on port {port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sent; `target` is path and query as on the wire, header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to send back. `cut_at`: after that many bytes of the body close the connection, or `stall` for ever."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_at: int | None = None
    stall: bool = False


class Hang:
    """Never answer."""


class Drop:
    """Close the connection without an answer."""


Script = Callable[[Request], Awaitable[Answer | type[Hang] | type[Drop]]]


def xml_error(status: int, code: str, message: str = "scripted", **headers: str) -> Answer:
    """An S3 error document."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    return Answer(status=status, headers={"Content-Type": "application/xml", **headers}, body=body)


class ScriptedServer:
    """A real HTTP/1.1 server on 127.0.0.1 whose every answer a test decides; keeps the requests it saw."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._failures: list[BaseException] = []
        self._server: asyncio.Server | None = None
        self.requests: list[Request] = []
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        await end(self._server, self._tasks, self._clients)
        await self._server.wait_closed()
        for failure in self._failures:
            raise failure  # a script that broke must not look like a server that closed the connection

    def seen(self, method: str, part: str = "") -> list[Request]:
        """The requests of that method whose target contains `part`."""
        return [request for request in self.requests if request.method == method and part in request.target]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(lambda _: writer.close())  # of one that was cancelled before it began, too
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader, writer)) is not None:
                self.requests.append(request)
                answer = await self._script(request)
                if answer is Hang:
                    await asyncio.Event().wait()
                if not isinstance(answer, Answer) or not await _send(writer, request, answer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return


async def forward(request: Request, endpoint: str) -> Answer:
    """What the server at `endpoint` answers to this very request."""
    headers = {name: value for name, value in request.headers.items() if name not in ("expect", "content-length")}
    url = URL(endpoint + request.target, encoded=True)
    skipped = ("Content-Type", "Accept-Encoding", "User-Agent")
    async with (
        aiohttp.ClientSession(skip_auto_headers=skipped, auto_decompress=False) as session,
        session.request(
            request.method, url, headers=headers, data=io.BytesIO(request.body) if request.body else None
        ) as response,
    ):
        body = await response.read()
        kept = {k: v for k, v in response.headers.items() if k.lower() not in ("connection", "transfer-encoding")}
        return Answer(status=response.status, headers=kept, body=body)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method=method, target=target, headers=headers, body=body)


async def _send(writer: asyncio.StreamWriter, request: Request, answer: Answer) -> bool:
    """Whether the connection is still of use afterwards."""
    length = next((v for k, v in answer.headers.items() if k.lower() == "content-length"), str(len(answer.body)))
    headers = {k: v for k, v in answer.headers.items() if k.lower() != "content-length"}
    if "Transfer-Encoding" not in headers:
        headers["Content-Length"] = length
    head = f"HTTP/1.1 {answer.status} Scripted\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    body = b"" if request.method == "HEAD" else answer.body[: answer.cut_at]
    writer.write(head.encode("latin-1") + b"\r\n" + body)
    await writer.drain()
    if answer.stall:
        await asyncio.Event().wait()
    return answer.cut_at is None
