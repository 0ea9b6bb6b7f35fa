"""Servers of each kind behind doors, and what befalls them in `servers_fail.py`; who begins a fault ends it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import redis.asyncio
from support.gate import HOST, Gate, through

from sagaz_tiering.embedded import PostgresServer, RedisServer, S3Server, postgres
from sagaz_tiering.embedded.server import EmbeddedServer

SLOW_S = 0.2
"""An answer takes so much longer: less than any deadline."""
TOO_SLOW_S = 6.0
"""And so much longer: more than any."""
BUCKET, PREFIX = "failing", "p"
_DEADLINE_S = 60.0

Fault = Callable[[], AbstractAsyncContextManager[None]]


class Door(Gate):
    """A gate that can hold back answers, and answer requests itself."""

    delay_s = 0.0
    instead: Callable[[bytes], bytes | None] | None = None
    """What is answered to a request (its first bytes) in place of the server; None: the server is asked."""

    @asynccontextmanager
    async def shut_for_a_while(self) -> AsyncIterator[None]:
        """Nobody listens at the port."""
        await self.shut()
        try:
            yield
        finally:
            await self.open()

    @asynccontextmanager
    async def slow(self, delay_s: float) -> AsyncIterator[None]:
        """Each piece of an answer is held back for so long."""
        self.delay_s = delay_s
        try:
            yield
        finally:
            self.delay_s = 0.0

    @asynccontextmanager
    async def answering(self, instead: Callable[[bytes], bytes | None]) -> AsyncIterator[None]:
        """The door answers in place of the server."""
        self.instead = instead
        try:
            yield
        finally:
            self.instead = None

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(*self._to)
            pumps = [asyncio.create_task(self._questions(reader, server_writer, writer))]
            pumps.append(asyncio.create_task(self._answers(server_reader, writer)))
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                server_writer.transport.abort()
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _questions(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            if self.instead is not None and (said := self.instead(data)) is not None:
                client.write(said)
                await client.drain()
                client.close()
                await client.wait_closed()
                return
            server.write(data)
            await server.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
            await writer.drain()


class Servers:
    """PostgreSQL, Redis and S3, behind a door each; of the kind that fails there is a second one, to take over."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Servers:
        async with AsyncExitStack() as stack:
            self.primary, self.standby = await self._postgresql_and_standby(stack)
            self.redis, self.replica = RedisServer(self._new("r1")), RedisServer(self._new("r2"))
            self.s3 = S3Server(self._new("s1"), bucket=BUCKET)
            self.elsewhere = S3Server(self._new("s2"), bucket=BUCKET)
            needed = {self.redis: True, self.s3: True, self.replica: self._kind == "Redis"}
            needed[self.elsewhere] = self._kind == "S3"
            for each in [server for server, is_needed in needed.items() if is_needed]:
                await stack.enter_async_context(each)
            self.pg_door, self.redis_door, self.s3_door = (
                Door(HOST, each.port) for each in (self.primary, self.redis, self.s3)
            )
            for door in (self.pg_door, self.redis_door, self.s3_door):
                await stack.enter_async_context(door)
            self.postgres_url = through(self.primary.url, self.pg_door.port)
            self.redis_url = through(self.redis.url, self.redis_door.port)
            self.s3_endpoint = f"http://{HOST}:{self.s3_door.port}"
            self._redis_password = urlsplit(self.redis.url).password or ""
            if self._kind == "Redis":
                await self._have_replica()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def faults(self) -> dict[str, Fault]:
        """Every fault of that kind of server."""
        kind = self._kind
        door = {"Redis": self.redis_door, "PostgreSQL": self.pg_door, "S3": self.s3_door}[kind]
        own: dict[str, dict[str, Fault]] = {
            "Redis": {
                "frozen": lambda: _frozen(self.redis),
                "read-only": lambda: self._redis_set("min-replicas-to-write", "9", "0"),
                "full": lambda: self._redis_set("maxmemory", "1mb", "0"),
                "refused: another password": self._redis_password_changed,
                "switched over": self._redis_switched,
            },
            "PostgreSQL": {
                "frozen": lambda: _frozen(self.primary),
                "read-only": self._postgresql_read_only,
                "full": self._postgresql_full,
                "refused: another password": self._postgresql_password_changed,
                "switched over": self._postgresql_switched,
            },
            "S3": {
                "frozen": lambda: _frozen(self.s3),
                "read-only": lambda: door.answering(_refusing(_READ_ONLY, b"PUT ", b"POST ", b"DELETE ")),
                "full": lambda: door.answering(_refusing(_FULL, b"PUT ")),
                "refused: another key": lambda: door.answering(_refusing(_NO_SUCH_KEY, *_METHODS)),
                "slow: 503 SlowDown": lambda: door.answering(_refusing(_SLOW_DOWN, *_METHODS)),
                "switched over": self._s3_switched,
            },
        }
        everywhere: dict[str, Fault] = {
            "refused: nobody listens": door.shut_for_a_while,
            f"slow: {SLOW_S:g} s more an answer": lambda: door.slow(SLOW_S),
            f"slow: {TOO_SLOW_S:g} s more an answer": lambda: door.slow(TOO_SLOW_S),
        }
        found = own[kind] | everywhere
        return {name: found[name] for name in sorted(found, key=_place)}

    def _new(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        folder.chmod(0o711)
        return folder

    async def _postgresql_and_standby(self, stack: AsyncExitStack) -> tuple[PostgresServer, PostgresServer]:
        postgres._SETTINGS.update(wal_level="replica", max_wal_senders="10", hot_standby="on")
        first = PostgresServer(self._new("p1"), durable=False)
        await asyncio.to_thread(first.initialise)
        second = PostgresServer(self._new("p2"), durable=False, template=first.home)
        await asyncio.to_thread(second.initialise)
        await stack.enter_async_context(first)
        parts = urlsplit(first.url)
        follows = f"host={HOST} port={parts.port} user={parts.username} password={parts.password}"
        (second.home / "data" / "standby.signal").touch()
        with (second.home / "data" / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{follows}'\n")
        if self._kind == "PostgreSQL":
            await stack.enter_async_context(second)
        return first, second

    async def sql(self, *statements: str) -> object:
        """Have the primary run these; the first value that the last one answers."""
        return await _sql(self.primary, *statements)

    @asynccontextmanager
    async def _postgresql_read_only(self) -> AsyncIterator[None]:
        await self.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            writes = "SET default_transaction_read_only = off"
            await self.sql(writes, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")

    @asynccontextmanager
    async def _postgresql_full(self) -> AsyncIterator[None]:
        """Every statement that would write is answered as by a full disk."""
        await self.sql(*(part.strip() for part in _DISK_FULL.split(";;")))
        try:
            yield
        finally:
            await self.sql("DROP FUNCTION public.disk_full CASCADE")

    @asynccontextmanager
    async def _postgresql_password_changed(self) -> AsyncIterator[None]:
        parts = urlsplit(self.primary.url)
        kept = await asyncpg.connect(self.primary.url, timeout=_DEADLINE_S)
        await kept.execute(f"ALTER ROLE {parts.username} PASSWORD 'another'")
        await kept.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sagaz-tiering'"
        )
        try:
            yield
        finally:
            await kept.execute(f"ALTER ROLE {parts.username} PASSWORD '{parts.password}'")
            await kept.close()

    @asynccontextmanager
    async def _postgresql_switched(self) -> AsyncIterator[None]:
        """The old primary takes no writes any more; at the end the address leads to the other one, all caught up."""
        await self.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            caught_up = False
            while not caught_up:
                at = await self.sql("SELECT pg_current_wal_lsn()::text")
                await asyncio.sleep(0.1)
                caught_up = bool(await _sql(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{at}'"))
                caught_up = caught_up and at == await self.sql("SELECT pg_current_wal_lsn()::text")
            await _sql(self.standby, "SELECT pg_promote()")
            self.primary, self.standby = self.standby, self.primary
            self.pg_door.lead_to(HOST, self.primary.port)

    async def _redis(self, server: RedisServer, *command: str, password: str | None = None) -> object:
        of_it = {"port": server.port, "password": password or self._redis_password, "socket_timeout": _DEADLINE_S}
        async with redis.asyncio.Redis(host=HOST, **of_it) as client:  # type: ignore[arg-type]  # one type for all
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type

    async def _have_replica(self) -> None:
        own = urlsplit(self.replica.url).password
        await self._redis(self.replica, "CONFIG", "SET", "masterauth", self._redis_password, password=own)
        await self._redis(self.replica, "CONFIG", "SET", "requirepass", self._redis_password, password=own)
        await self._redis(self.redis, "CONFIG", "SET", "masterauth", self._redis_password)
        for server in (self.redis, self.replica):
            await self._redis(server, "CONFIG", "SET", "save", "86400 1")
        await self._redis(self.replica, "REPLICAOF", HOST, str(self.redis.port))

    @asynccontextmanager
    async def _redis_set(self, name: str, value: str, usual: str) -> AsyncIterator[None]:
        await self._redis(self.redis, "CONFIG", "SET", name, value)
        try:
            yield
        finally:
            await self._redis(self.redis, "CONFIG", "SET", name, usual)

    @asynccontextmanager
    async def _redis_password_changed(self) -> AsyncIterator[None]:
        await self._redis(self.redis, "CONFIG", "SET", "requirepass", "another")
        await self._redis(self.redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", password="another")
        try:
            yield
        finally:
            await self._redis(self.redis, "CONFIG", "SET", "requirepass", self._redis_password, password="another")

    @asynccontextmanager
    async def _redis_switched(self) -> AsyncIterator[None]:
        """The old primary follows the new one, and refuses writes; at the end the address leads to the new one."""
        await self._redis(self.redis, "WAIT", "1", "0")
        await self._redis(self.replica, "REPLICAOF", "NO", "ONE")
        await self._redis(self.redis, "REPLICAOF", HOST, str(self.replica.port))
        try:
            yield
        finally:
            self.redis, self.replica = self.replica, self.redis
            self.redis_door.lead_to(HOST, self.redis.port)

    @asynccontextmanager
    async def _s3_switched(self) -> AsyncIterator[None]:
        """The address leads to another server, whose bucket of the same name is empty; at the end it leads back."""
        await self._lead_s3_to(self.elsewhere)
        try:
            yield
        finally:
            await self._lead_s3_to(self.s3)

    async def _lead_s3_to(self, server: S3Server) -> None:
        self.s3_door.lead_to(HOST, server.port)
        await self.s3_door.shut()
        await self.s3_door.open()


@asynccontextmanager
async def _frozen(server: EmbeddedServer) -> AsyncIterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def _sql(server: PostgresServer, *statements: str) -> object:
    connection = await asyncpg.connect(server.url, timeout=_DEADLINE_S, command_timeout=_DEADLINE_S)
    try:
        for statement in statements:
            value: object = await connection.fetchval(statement)
        return value
    finally:
        connection.terminate()


_DISK_FULL = """
CREATE FUNCTION public.disk_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file "base/5/16384": No space left on device' USING ERRCODE = '53100';
END $$;;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'sagaz_tiering' LOOP
        EXECUTE format('CREATE TRIGGER disk_full BEFORE INSERT OR UPDATE ON sagaz_tiering.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION public.disk_full()', name);
    END LOOP;
END $$"""
"""A disk that is full and still lets its server live; one cannot be had without root."""

_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")
_READ_ONLY = (b"403 Forbidden", b"AccessDenied", b"The bucket is read-only")
_FULL = (b"507 Insufficient Storage", b"XMinioStorageFull", b"Storage backend has reached its minimum free drive")
_NO_SUCH_KEY = (b"403 Forbidden", b"InvalidAccessKeyId", b"The access key does not exist")
_SLOW_DOWN = (b"503 Slow Down", b"SlowDown", b"Please reduce your request rate")


def _refusing(answer: tuple[bytes, bytes, bytes], *methods: bytes) -> Callable[[bytes], bytes | None]:
    """What S3 answers to requests of these methods; None to others."""
    status, code, message = answer

    def instead(asked: bytes) -> bytes | None:
        if not asked.startswith(methods):
            return None
        body = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>' % (code, message)
        head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        return head % (status, len(body)) + (b"" if asked.startswith(b"HEAD ") else body)

    return instead


def _place(fault: str) -> int:
    """The order of the rows; a server that changes hands comes last, since it is another one from then on."""
    order = ("frozen", "read-only", "full", "refused", "slow", "switched")
    return next(at for at, word in enumerate(order) if fault.startswith(word))
