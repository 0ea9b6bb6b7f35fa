"""What is wrong and what to do: errors name the setting, the missing right or the odd value, not something else."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from pydantic import ValidationError
from support.commands import cli, write_config
from support.payload import snapshots
from support.processes import redis_do, sql
from support.s3_server import Answer, ScriptedServer, free_port
from support.tiers import NOW, config, product
from support.tls import authority, server_context, tls_server

from sagaz_tiering import PostgreSQLSnapshotStorage, RedisSnapshotStorage, ReplayConfig, S3SnapshotStorage
from sagaz_tiering.catalog.restores import Wanted
from sagaz_tiering.cli.options import MOST
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.config.sections import EncryptionSettings
from sagaz_tiering.embedded import PostgresServer, RedisServer
from sagaz_tiering.errors import (
    CatalogRefused,
    CatalogUnavailable,
    ConfigError,
    HotTierRefused,
    HotTierUnavailable,
    InvalidSnapshot,
    MasterKeyUnavailable,
    SagazTieringError,
    SchemaMismatch,
)
from sagaz_tiering.keys.kms import Kms
from sagaz_tiering.snapshot import MAX_TIME

SAVED = next(iter(snapshots(1, created_at=NOW)))
NOT_UTF8 = os.fsdecode(b"caf\xe9")


@contextmanager
def says(kind: type[SagazTieringError], *words: str) -> Iterator[None]:
    """The error is of that kind, and message and hint have all of the words."""
    with pytest.raises(kind) as caught:
        yield
    told = f"{caught.value} | {caught.value.hint}"
    assert [word for word in words if word not in told] == [], told


async def save_into(storage: RedisSnapshotStorage | PostgreSQLSnapshotStorage | S3SnapshotStorage) -> None:
    async with storage:
        await storage.save_snapshot(SAVED)


# -- Redis ---------------------------------------------------------------------------------------------------------


async def test_redis_database_out_of_range_is_named(redis_url: str) -> None:
    """The number is wrong, not the reachability."""
    with says(HotTierRefused, "DB index", "/99", "lower number in redis_url"):
        await save_into(RedisSnapshotStorage(redis_url.rpartition("/")[0] + "/99"))


async def test_redis_right_that_lacks_is_named_as_its_acl_command(
    own_redis: Callable[..., Awaitable[RedisServer]], database: str, tmp_path: Path
) -> None:
    """A command, a key pattern and a script's inner command; carried out, the save works."""
    server = await own_redis()
    url = f"redis://few:few-secret@127.0.0.1:{urlsplit(server.url).port}/0"
    await redis_do(server.url, "ACL", "SETUSER", "few", "on", ">few-secret", "~other*", "+@all", "-zadd")
    with says(HotTierRefused, "ACL SETUSER few ~snapshot:*", "redis_url"):
        await save_into(RedisSnapshotStorage(url, key_prefix="snapshot:"))
    await redis_do(server.url, "ACL", "SETUSER", "few", "~snapshot:*")
    with says(HotTierRefused, "ACL SETUSER few +zadd"):
        await save_into(RedisSnapshotStorage(url, key_prefix="snapshot:"))
    await redis_do(server.url, "ACL", "SETUSER", "few", "+zadd", "-evalsha")
    with says(HotTierRefused, "ACL SETUSER few +evalsha"):
        await save_into(RedisSnapshotStorage(url, key_prefix="snapshot:"))
    await redis_do(server.url, "ACL", "SETUSER", "few", "+evalsha")
    await save_into(RedisSnapshotStorage(url, key_prefix="snapshot:"))
    async with product(config(database=database, redis_url=url, cold=tmp_path / "cold")) as shop:
        with says(HotTierRefused, "ACL SETUSER few ~sagaz*", "tiers.hot.url"):
            await shop.storage.get_snapshot(SAVED.snapshot_id)


async def test_tls_that_one_side_does_not_speak_is_thought_of(redis_url: str, database: str, tmp_path: Path) -> None:
    """Redis, PostgreSQL and S3, each asked with TLS where there is none, or without where there is."""
    port = urlsplit(redis_url).port
    with says(HotTierUnavailable, "speaks TLS at that port"):
        await save_into(RedisSnapshotStorage(f"rediss://127.0.0.1:{port}/0", socket_timeout=1))
    with says(CatalogUnavailable, "speaks no TLS", "out of connection_string"):
        await save_into(PostgreSQLSnapshotStorage(f"{database}{'&' if '?' in database else '?'}sslmode=require"))
    context = server_context(tmp_path, authority(tmp_path))
    async with tls_server(context) as server:
        with says(HotTierUnavailable, "a port that speaks TLS needs rediss://"):
            await save_into(RedisSnapshotStorage(f"redis://127.0.0.1:{server.port}/0"))
        with says(SagazTieringError, "a port that speaks TLS needs https://"):
            endpoint = f"http://127.0.0.1:{server.port}"
            keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
            await save_into(S3SnapshotStorage("b", region_name="us-east-1", endpoint_url=endpoint, **keys))


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


async def test_postgresql_that_takes_only_tls_says_so(own_postgres: Callable[..., Awaitable[PostgresServer]]) -> None:
    """hostssl, no line at all, another database, role or password: each is told apart from the password."""
    server = await own_postgres()
    at = f"127.0.0.1:{server.port}"
    hba = server.home / "data" / "pg_hba.conf"
    own = hba.read_text()
    address = urlsplit(server.url)
    name, _, secret = address.netloc.rpartition("@")[0].partition(":")
    for url, words in (
        (f"postgresql://{name}:{secret}@{at}/nowhere", ("createdb", "nowhere")),
        (f"postgresql://{name}:wrong@{at}/postgres", ("user and password",)),
    ):
        with says(CatalogRefused, *words):
            await save_into(PostgreSQLSnapshotStorage(url))
    admin = await sql_later(server.url)
    try:
        hba.write_text("hostssl all all 127.0.0.1/32 trust\nlocal all all trust\n")
        await admin("SELECT pg_reload_conf()")
        with says(CatalogRefused, "takes only TLS", "sslmode=require"):
            await save_into(PostgreSQLSnapshotStorage(f"postgresql://{name}@{at}/postgres?sslmode=disable"))
    finally:
        hba.write_text(own)
        await admin("SELECT pg_reload_conf()")
        await admin(None)


async def sql_later(url: str) -> Callable[[str | None], Awaitable[None]]:
    """A connection that stays when nobody else is let in; None closes it."""
    import asyncpg

    connection = await asyncpg.connect(url)

    async def do(statement: str | None) -> None:
        await (connection.close() if statement is None else connection.execute(statement))

    return do


async def test_postgresql_right_that_lacks_is_named_as_its_grant(
    database: str, redis_url: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """Schema, then tables; carried out, it works. The role is quoted where it must be."""
    name = f"Reader {uuid4().hex[:8]}"
    address = urlsplit(database)
    url = f"postgresql://{quote(name)}:reader-secret@{address.netloc.rpartition('@')[2]}{address.path}"
    await sql(database, f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'reader-secret'")
    try:
        async with product(config(database=url, redis_url=redis_url, cold=tmp_path / "cold"), schema=False) as shop:
            for grant in (
                f'GRANT USAGE ON SCHEMA sagaz_tiering TO "{name}"',
                f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA sagaz_tiering TO "{name}"',
            ):
                with says(ConfigError, grant, "catalog.url"):
                    await shop.runtime.catalog.erasures.newest(1)
                await sql(database, grant)
            assert await shop.runtime.catalog.erasures.newest(1) == []
    finally:
        await sql(database, f'DROP OWNED BY "{name}"')
        await sql(database, f'DROP ROLE "{name}"')


async def test_every_command_says_migrate_where_there_is_no_catalog(
    empty_database: str, redis_url: str, tmp_path: Path
) -> None:
    """Before `catalog migrate` no command shows a bare error of SQL, whatever it would have done."""
    path = write_config(tmp_path, database=empty_database, redis_url=redis_url)
    saga = SAVED.saga_id
    commands: tuple[tuple[object, ...], ...] = (
        ("status",),
        ("hold", saga, "--reason", "x"),
        ("release", saga, "--reason", "x"),
        ("holds",),
        ("forget", saga, "--reason", "x", "--yes"),
        ("erasures",),
        ("quarantine", "list"),
        ("quarantine", "drop", "x"),
        ("job", "age", "--once"),
        ("plan",),
        ("timeline", saga),
        ("show", SAVED.snapshot_id),
        ("explain", SAVED.snapshot_id),
        ("restore", saga),
        ("restores",),
        ("cancel-restore", saga),
        ("keys", "export", tmp_path / "keys.json"),
        ("catalog", "verify"),
        ("catalog", "adopt", "--yes"),
        ("catalog", "rebuild", "--yes"),
        ("replay", "history", saga),
    )
    for command in commands:
        answer = await cli(*command, "--config", path)
        assert "unexpected" not in answer.err, (command, answer.err)
        assert "catalog migrate" in answer.err, (command, answer)
        assert answer.code == SchemaMismatch.exit_code, (command, answer)
    doctor = await cli("doctor", "--config", path)
    assert "unexpected" not in doctor.out
    assert "catalog migrate" in doctor.out
    status = await cli("keys", "status", "--config", path)
    assert "unexpected" not in status.err + status.out


# -- AWS -----------------------------------------------------------------------------------------------------------


async def test_profile_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By S3 and by KMS, with the variable and the file."""
    monkeypatch.setenv("AWS_PROFILE", "no-such")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    endpoint = f"http://127.0.0.1:{free_port()}"
    with says(ConfigError, "no-such", "AWS_PROFILE", "~/.aws/config"):
        await save_into(S3SnapshotStorage("b", region_name="us-east-1", endpoint_url=endpoint))
    kms = Kms(EncryptionSettings(kms_key_id="alias/k", kms_region="us-east-1", kms_endpoint_url=endpoint))
    with says(MasterKeyUnavailable, "no-such", "AWS_PROFILE", "~/.aws/config"):
        await kms.current_id()
    await kms.close()


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("DisabledException", "aws kms enable-key"),
        ("KMSInvalidStateException", "about to be deleted"),
        ("NotFoundException", "exists"),
        ("AccessDeniedException", "grant kms:DescribeKey, kms:Encrypt and kms:Decrypt"),
        ("UnrecognizedClientException", "access key"),
        ("ExpiredTokenException", "renew"),
        ("LimitExceededException", "asked again"),
    ],
)
async def test_answer_of_kms_says_what_to_do(code: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights are blamed only where rights are missing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")

    async def answer(_: object) -> Answer:
        return Answer(status=400, body=f'{{"__type": "{code}", "message": "so it is"}}'.encode())

    async with ScriptedServer(answer) as server:
        kms = Kms(EncryptionSettings(kms_key_id="alias/k", kms_region="us-east-1", kms_endpoint_url=server.endpoint))
        with says(MasterKeyUnavailable, code, word):
            await kms.current_id()
        await kms.close()


# -- odd values ----------------------------------------------------------------------------------------------------

FIRST, LAST = "0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00"


async def test_times_and_numbers_that_nothing_can_have_are_refused(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    """The years 1 and 9999 and a limit past any: the command line is wrong, and says how."""
    for moment in (FIRST, LAST):
        with says(InvalidSnapshot, "after must be between 1700 and 2255"):
            Wanted(after=datetime.fromisoformat(moment))
    path = write_config(tmp_path, database=database, redis_url=redis_url)
    async with product(config(database=database, redis_url=redis_url, cold=tmp_path / "cold")) as shop:
        await shop.storage.save_snapshot(SAVED)
        for moment in (FIRST, LAST):
            with says(InvalidSnapshot, "timestamp must be between 1700 and 2255"):
                await shop.storage.get_snapshot_at_time(SAVED.saga_id, datetime.fromisoformat(moment))
    saga = SAVED.saga_id
    for command in (
        *(("show", "--saga", saga, "--at", at) for at in (FIRST, LAST)),
        ("replay", "time-travel", saga, "--at", FIRST),
        ("replay", "list-changes", saga, "--after", FIRST),
        ("restore", saga, "--before", LAST),
        *(("plan", "--as-of", day) for day in ("0001-01-01", "9999-12-31", FIRST, LAST)),
    ):
        answer = await cli(*command, "--config", path)
        assert (answer.code, "between 1700 and 2255" in answer.err) == (2, True), (command, answer)
    for command in (("erasures",), ("restores",), ("holds", "--log"), ("quarantine", "list")):
        answer = await cli(*command, "--limit", 10**22, "--config", path)
        assert (answer.code, str(MOST) in answer.err) == (2, True), (command, answer)


async def test_text_that_is_no_text_is_refused_before_anything_happens(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    """Bytes of the command line that are not UTF-8, in a reason, a name or a pattern; nothing is held or erased."""
    path = write_config(tmp_path, database=database, redis_url=redis_url)
    async with product(config(database=database, redis_url=redis_url, cold=tmp_path / "cold")) as shop:
        await shop.storage.save_snapshot(SAVED)
        held = await shop.storage.holder.hold(uuid4(), reason="case 1", who="w")
        with says(ConfigError, "the reason", "UTF-8"):
            await shop.storage.holder.release([held], reason=NOT_UTF8, who="w")
        with pytest.raises(ValidationError, match="UTF-8"):
            Match(saga_name=(NOT_UTF8,))
        saga = SAVED.saga_id
        for command in (
            ("hold", saga, "--reason", NOT_UTF8),
            ("hold", saga, "--reason", "case 1", "--who", NOT_UTF8),
            ("hold", "--match", f"saga_name={NOT_UTF8}", "--future", "--reason", "case 1"),
            ("release", held.hold_id, "--reason", NOT_UTF8),
            ("forget", saga, "--yes", "--reason", NOT_UTF8),
        ):
            answer = await cli(*command, "--config", path)
            assert (answer.code, "UTF-8" in answer.err) == (2, True), (command, answer)
        assert await shop.storage.get_snapshot(SAVED.snapshot_id) == SAVED
        assert [each.hold_id for each in await shop.runtime.catalog.holds.in_force()] == [held.hold_id]


def test_retention_past_the_last_time_ends_there() -> None:
    """A million years, as somebody writes who means "for ever", is a time that a snapshot can have."""
    for days in (10**6, 10**12):
        assert MAX_TIME - timedelta(days=2) < ReplayConfig(retention_days=days).get_retention_until() < MAX_TIME
