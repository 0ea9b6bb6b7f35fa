"""`doctor`: each thing that a deployment needs is broken once, and named; where nothing is broken, it says that."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from support.commands import cli
from support.encrypted import POLICIES as ENCRYPTED
from support.encrypted import aged, encrypted, key_file
from support.payload import snapshots
from support.pooler import TransactionPooler
from support.processes import redis_do, sql
from support.redis_cluster import PlainRedis
from support.s3_server import Answer, Hang, Request, S3Server, ScriptedServer, forward, xml_error
from support.servers import fresh_database, server_folder
from support.tiers import Places, product
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import SystemClock, VirtualClock
from sagaz_tiering.config.load import load_config
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.doctor import Finding, Level, examine, run
from sagaz_tiering.doctor.finding import Findings, exit_code
from sagaz_tiering.doctor.machine import check_requirement
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer, RedisServer

NOWHERE = "127.0.0.1:1"
"""Nothing ever listens there."""
POLICIES: list[dict[str, Any]] = [
    {
        "name": "old",
        "match": {},
        "retain": "forever",
        "move": [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "60d"}],
    }
]
REGION = {"region": "us-east-1"}


async def migrated(url: str) -> None:
    """A catalog in an empty database."""
    async with Database(CatalogSettings(url=url)) as db:
        await migrate(db)


@pytest.fixture
def deployment(database: str, redis_url: str, tmp_path: Path) -> Callable[..., Path]:
    """`deployment(redis_url=…, cold=…)`: the file of a configuration that is sound where nothing else is said."""

    def write(**changes: Any) -> Path:
        given = {"database": database, "redis_url": redis_url, "policies": POLICIES, **changes}
        given.setdefault("cold", {"url": f"file://{tmp_path / 'cold'}"})
        return write_config(tmp_path / "tiering.yaml", **given)

    return write


def on_s3(endpoint: str, bucket: str, **more: Any) -> dict[str, Any]:
    """The section of a cold tier on a test server."""
    keys = {"access_key_id": "testing", "secret_access_key": "testing-secret"}
    return {"url": f"s3://{bucket}/env/test", "endpoint_url": endpoint, **REGION, **keys, **more}


def of(findings: list[Finding], subject: str) -> Finding:
    """The one finding about that."""
    (found,) = [each for each in findings if each.subject == subject]
    return found


EXPECTED = ("postgresql.durability", "policy")
"""The session's PostgreSQL runs without fsync, and secrets are in the file: rightly an error, and warnings."""
SLOW = ("redis.reachable", "postgresql.reachable")
"""Warnings on a machine that does much else."""


def wrong(findings: list[Finding]) -> list[str]:
    """Subjects of what is not fine, but for what no test can help."""
    bad = [each for each in findings if each.level is not Level.OK]
    slow = [each for each in bad if each.level is Level.WARNING and each.subject in SLOW]
    return sorted({each.subject for each in bad if each not in slow} - set(EXPECTED))


async def test_doctor_finds_nothing_wrong_in_a_sound_deployment(
    own_postgres: Callable[..., Awaitable[PostgresServer]],
    deployment: Callable[..., Path],
    redis_url: str,
    tmp_path: Path,
) -> None:
    """Every part is named and fine, the exit code is 0, and the probe has left nothing."""
    server = await own_postgres(durable=True)
    await migrated(server.url)
    secrets = {"SAGAZ_TIERING_CATALOG__URL": server.url, "SAGAZ_TIERING_TIERS__HOT__URL": redis_url}
    settings = deployment(database=f"postgresql://{NOWHERE}/x", redis_url=f"redis://{NOWHERE}/0")
    answer = await cli("doctor", "--json", "--config", settings, **secrets)
    assert answer.code == 0, answer.out
    document = answer.document
    assert document["ok"] is True
    assert [each for each in document["findings"] if each["level"] != "ok" and each["subject"] not in SLOW] == []
    assert sum(document["counts"].values()) == len(document["findings"])
    assert document["counts"]["error"] == 0
    subjects = {each["subject"] for each in document["findings"]}
    for server_name in ("redis", "postgresql", "object_store"):
        assert f"{server_name}.reachable" in subjects
    assert {"packages", "policy", "folders", "encryption", "postgresql.pooler", "redis.eviction"} <= subjects
    assert {"object_store.conditional_write", "object_store.range", "object_store.class.GLACIER"} <= subjects
    assert not list((tmp_path / "cold").rglob("*.object"))
    table = await cli("doctor", "--config", settings, **secrets)
    assert table.code == 0
    assert re.search(r"^(ok|warning) +redis\.reachable: .* ms$", table.out, re.MULTILINE), table.out
    assert "0 errors" in table.out


@pytest.mark.parametrize("dead", ["redis", "postgresql", "object_store"])
async def test_dead_server_stops_no_other_check(
    dead: str, deployment: Callable[..., Path], s3_server: S3Server
) -> None:
    """The others are looked at all the same; the exit code is that of a server that cannot be asked."""
    cold = on_s3(f"http://{NOWHERE}" if dead == "object_store" else s3_server.endpoint, await s3_server.make_bucket())
    changes = {
        "redis": {"redis_url": f"redis://{NOWHERE}/0"},
        "postgresql": {"database": f"postgresql://x@{NOWHERE}/x"},
        "object_store": {},
    }
    began = time.monotonic()
    findings = await examine(deployment(cold=cold, **changes[dead]))
    assert time.monotonic() - began < 120
    failed = {name for name in changes if of(findings, f"{name}.reachable").level is Level.ERROR}
    assert failed == {dead}
    assert of(findings, f"{dead}.reachable").hint
    assert exit_code(findings) == 4


async def test_silent_server_ends_at_the_deadline(deployment: Callable[..., Path]) -> None:
    """One that accepts and never answers costs the deadline, not the report."""

    async def silent(_: Request) -> type[Hang]:
        return Hang

    async with ScriptedServer(silent) as server:
        began = time.monotonic()
        findings = await examine(deployment(cold=on_s3(server.endpoint, "silent")), deadline=timedelta(seconds=1))
    assert time.monotonic() - began < 120
    stuck = [each for each in findings if each.subject.startswith("object_store.") and each.level is Level.ERROR]
    assert stuck
    assert exit_code(findings) == 4
    assert of(findings, "redis.reachable").level is not Level.ERROR


async def test_busy_machine_is_no_dead_server(deployment: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds the event loop up for longer than the deadline, and than each call's, makes nothing unreachable."""
    calls = []

    async def busy(_: object, found: Findings) -> None:
        calls.append("busy")
        for _ in range(4):
            time.sleep(1)  # noqa: ASYNC251  # that is the point
            await asyncio.sleep(0.001)
        found.ok("busy", "done")

    monkeypatch.setattr(run, "check_encryption", busy)
    findings = await examine(deployment(), deadline=timedelta(seconds=1.5))
    assert [each for each in findings if each.level is Level.ERROR and each.subject not in EXPECTED] == []
    assert of(findings, "busy").level is Level.OK
    assert calls == ["busy"]


async def test_slow_server_is_cut_off_as_a_whole(deployment: Callable[..., Path]) -> None:
    """Each question within its own time, but too many of them: what came in until the deadline is told."""

    async def slow(request: Request) -> Answer | type[Hang]:
        if request.method == "HEAD":
            return Answer()
        return xml_error(404, "NoSuchKey") if "owner.json" in request.target else Hang

    async with ScriptedServer(slow) as server:
        findings = await examine(deployment(cold=on_s3(server.endpoint, "slow")), deadline=timedelta(seconds=1))
    assert of(findings, "object_store.owner").level is Level.OK
    assert of(findings, "object_store.deadline").level is Level.ERROR


# -- Redis ---------------------------------------------------------------------------------------------------------


async def test_redis_that_evicts_or_forgets_is_named(
    own_redis: Callable[..., Awaitable[RedisServer]], deployment: Callable[..., Path]
) -> None:
    """An evicting policy is an error; no persistence and a nearly full memory are warnings, until they are mended."""
    server = await own_redis(durable=True)
    settings = deployment(redis_url=server.url)
    assert wrong(await examine(settings)) == []
    for name, value in (("maxmemory-policy", "allkeys-lru"), ("appendonly", "no"), ("maxmemory", "1mb")):
        await redis_do(server.url, "CONFIG", "SET", name, value)
    findings = await examine(settings)
    assert wrong(findings) == ["redis.eviction", "redis.memory", "redis.persistence"]
    assert of(findings, "redis.eviction").level is Level.ERROR
    assert of(findings, "redis.eviction").hint == "set noeviction"
    assert of(findings, "redis.persistence").level is of(findings, "redis.memory").level is Level.WARNING
    assert exit_code(findings) == 2


async def test_redis_url_that_asks_for_text_is_refused(deployment: Callable[..., Path], redis_url: str) -> None:
    """decode_responses in the URL: values are bytes, and would come back broken."""
    findings = await examine(deployment(redis_url=f"{redis_url}?decode_responses=true"))
    assert of(findings, "redis.reachable").level is Level.ERROR
    assert "decode_responses" in of(findings, "redis.reachable").message


async def test_node_of_a_cluster_as_one_server_is_an_error(deployment: Callable[..., Path]) -> None:
    """It answers pings like any other, and would refuse two thirds of all keys."""
    with server_folder() as folder:
        async with PlainRedis(folder, cluster_enabled="yes", save="86400 1") as node:
            findings = await examine(deployment(redis_url=node.url))
    assert of(findings, "redis.cluster").level is Level.ERROR


async def test_replica_is_an_error(deployment: Callable[..., Path], redis_server: RedisServer) -> None:
    """It would refuse every save."""
    port = str(urlsplit(redis_server.url).port)
    with server_folder() as folder:
        async with PlainRedis(folder, replicaof=f"127.0.0.1 {port}", save="86400 1") as replica:
            findings = await examine(deployment(redis_url=replica.url))
    assert of(findings, "redis.role").level is Level.ERROR


async def test_redis_that_writes_now_and_then_is_doubtful_for_hot_policies(
    own_redis: Callable[..., Awaitable[RedisServer]], deployment: Callable[..., Path]
) -> None:
    """RDB alone, Debian's default: fine where PostgreSQL has everything, a warning that names the others' policies."""
    server = await own_redis()
    await redis_do(server.url, "CONFIG", "SET", "save", "3600 1 300 100 60 10000")
    assert of(await examine(deployment(redis_url=server.url)), "redis.persistence").level is Level.OK
    policies = [{"name": "quick", "durability": "hot", "retain": "forever"}]
    found = of(await examine(deployment(redis_url=server.url, policies=policies)), "redis.persistence")
    assert found.level is Level.WARNING
    assert "quick" in found.message
    assert "appendonly yes" in found.hint


async def test_redis_user_without_rights_gets_warnings(
    own_redis: Callable[..., Awaitable[RedisServer]], deployment: Callable[..., Path]
) -> None:
    """What may not be asked is named with the right that lacks; nothing is called fine that was not seen."""
    server = await own_redis()
    await redis_do(server.url, "ACL", "SETUSER", "few", "on", ">few-secret", "~*", "+@all", "-config")
    address = urlsplit(server.url)
    settings = deployment(redis_url=f"redis://few:few-secret@127.0.0.1:{address.port}/0")
    findings = await examine(settings)
    assert of(findings, "redis.persistence").level is Level.WARNING
    assert "config" in of(findings, "redis.persistence").hint
    await redis_do(server.url, "ACL", "SETUSER", "few", "-info")
    assert "info" in of(await examine(settings), "redis.info").hint
    await redis_do(server.url, "ACL", "SETUSER", "few", "off")
    findings = await examine(settings)
    assert of(findings, "redis.reachable").level is Level.ERROR
    assert "few-secret" not in json.dumps([each.to_dict() for each in findings])


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


async def test_catalog_that_is_missing_or_newer_is_an_error(
    database: str, deployment: Callable[..., Path], postgres_server: PostgresServer
) -> None:
    """With the command that makes it, and the exit code of a wrong schema."""
    async with fresh_database(postgres_server) as empty:
        findings = await examine(deployment(database=empty))
        assert of(findings, "postgresql.schema").level is Level.ERROR
        assert "catalog migrate" in of(findings, "postgresql.schema").hint
    await sql(database, "INSERT INTO sagaz_tiering.schema_migrations (version, name) VALUES (9999, 'later')")
    findings = await examine(deployment())
    assert "upgrade" in of(findings, "postgresql.schema").hint
    assert exit_code(findings) == 2


async def test_pooler_that_loses_prepared_statements_is_an_error(
    own_postgres: Callable[..., Awaitable[PostgresServer]], deployment: Callable[..., Path]
) -> None:
    """Behind a transaction pooler: an error with the statement cache on, fine with it off, and nothing without one."""
    server = await own_postgres()
    await migrated(server.url)
    assert "no pooler" in of(await examine(deployment(database=server.url)), "postgresql.pooler").message
    (server.home / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
    await sql(server.url, "SELECT pg_reload_conf()")
    async with TransactionPooler(server.port, "sagaz", "postgres", size=2) as pooler:
        through = f"postgresql://sagaz@127.0.0.1:{pooler.port}/postgres"
        found = of(await examine(deployment(database=through)), "postgresql.pooler")
        assert found.level is Level.ERROR
        assert "catalog.statement_cache: false" in found.hint
        settings = deployment(database=through)
        text = json.loads(settings.read_text())
        text["catalog"]["statement_cache"] = False
        settings.write_text(json.dumps(text))
        findings = await examine(settings)
        assert of(findings, "postgresql.pooler").level is Level.OK
        assert "transaction mode" in of(findings, "postgresql.pooler").message
        assert of(findings, "postgresql.schema").level is Level.OK


async def test_user_without_rights_is_told_the_grant(
    database: str, deployment: Callable[..., Path], postgres_server: PostgresServer
) -> None:
    """A user that may only read gets warnings that name right and tables; one that may nothing, the schema's."""
    name = f"reader_{uuid4().hex[:8]}"
    address = urlsplit(database)
    await sql(database, f"CREATE ROLE {name} LOGIN PASSWORD 'reader-secret'")
    url = f"postgresql://{name}:reader-secret@{address.netloc.rpartition('@')[2]}{address.path}"
    try:
        findings = await examine(deployment(database=url))
        assert of(findings, "postgresql").level is Level.WARNING
        assert "sagaz_tiering" in of(findings, "postgresql").message
        await sql(database, f"GRANT USAGE ON SCHEMA sagaz_tiering TO {name}")
        await sql(database, f"GRANT SELECT ON ALL TABLES IN SCHEMA sagaz_tiering TO {name}")
        rights = [each for each in await examine(deployment(database=url)) if each.subject == "postgresql.rights"]
        assert [each.level for each in rights] == [Level.WARNING] * 4  # INSERT, UPDATE, DELETE; sequences
        assert "GRANT INSERT" in " ".join(each.hint for each in rights)
        assert "packs" in rights[0].message
        assert "reader-secret" not in json.dumps([each.to_dict() for each in rights])
    finally:
        await sql(database, f"DROP OWNED BY {name}")
        await sql(database, f"DROP ROLE {name}")


async def test_clocks_apart_are_named(deployment: Callable[..., Path], s3_server: S3Server) -> None:
    """Ten seconds are a warning, an hour is an error, for each server by itself."""
    settings = deployment(cold=on_s3(s3_server.endpoint, await s3_server.make_bucket()))
    clocks = ("redis.clock", "postgresql.clock", "object_store.clock")
    for ahead, level in ((0, Level.OK), (10, Level.WARNING), (3600, Level.ERROR), (-3600, Level.ERROR)):
        clock = VirtualClock(SystemClock().now() + timedelta(seconds=ahead))
        findings = await examine(settings, clock=clock)
        # A virtual clock stands still, so real seconds that pass meanwhile count against it.
        assert {of(findings, each).level for each in clocks} == {level}, ahead


async def test_server_that_may_lose_commits_is_named(
    own_postgres: Callable[..., Awaitable[PostgresServer]], deployment: Callable[..., Path]
) -> None:
    """fsync off is an error, synchronous_commit off a warning."""
    server = await own_postgres(durable=True)
    await migrated(server.url)
    settings = deployment(database=server.url)
    assert of(await examine(settings), "postgresql.durability").level is Level.OK
    await sql(server.url, "ALTER SYSTEM SET synchronous_commit = off")
    await sql(server.url, "SELECT pg_reload_conf()")
    async with asyncio.timeout(300):
        # PostgreSQL tells nobody when it has read its settings again.
        while await sql(server.url, "SELECT current_setting('synchronous_commit')") != "off":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert of(await examine(settings), "postgresql.durability").level is Level.WARNING
    assert of(await examine(deployment()), "postgresql.durability").level is Level.ERROR


# -- the object store ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versioning", [None, "Enabled"])
async def test_probe_tells_what_a_store_can_and_leaves_nothing(
    versioning: str | None, deployment: Callable[..., Path], s3_server: S3Server
) -> None:
    """Of moto: everything but that it takes wrong checksums. No object and no version is left, killed ones neither."""
    bucket = await s3_server.make_bucket(versioning)
    old = "env/test/doctor/00000000-0000-4000-8000-000000000000/object"
    async with s3_server.admin() as admin:
        await admin.put_object(Bucket=bucket, Key=old, Body=b"left by one that was killed")
    findings = await examine(deployment(cold=on_s3(s3_server.endpoint, bucket)))
    assert wrong(findings) == ["object_store.checksums"]
    assert of(findings, "object_store.checksums").level is Level.WARNING
    for what in ("conditional_write", "range", "class.STANDARD_IA", "class.GLACIER", "move", "archive", "delete"):
        assert of(findings, f"object_store.{what}").level is Level.OK, what
    assert [each["Key"] for each in await s3_server.versions(bucket)] == [old]
    late = VirtualClock(SystemClock().now() + timedelta(hours=2))
    await examine(deployment(cold=on_s3(s3_server.endpoint, bucket)), clock=late)
    assert await s3_server.versions(bucket) == []


def altering(endpoint: str, change: Callable[[Request], Request | Answer]) -> ScriptedServer:
    """moto behind a proxy that alters requests, or answers them itself."""

    async def script(request: Request) -> Answer:
        changed = change(request)
        return changed if isinstance(changed, Answer) else await forward(changed, endpoint)

    return ScriptedServer(script)


def without(request: Request, *headers: str) -> Request:
    """The same without these headers."""
    return replace(request, headers={name: value for name, value in request.headers.items() if name not in headers})


def _strict(request: Request) -> Request | Answer:
    """What S3 does with a checksum."""
    said = request.headers.get("x-amz-checksum-sha256")
    if said is not None and base64.b64decode(said) != hashlib.sha256(request.body).digest():
        return xml_error(400, "BadDigest")
    return request


async def test_probe_sees_checksums_that_are_compared(deployment: Callable[..., Path], s3_server: S3Server) -> None:
    """A store that refuses a wrong checksum is told apart from one that takes it."""
    async with altering(s3_server.endpoint, _strict) as server:
        findings = await examine(deployment(cold=on_s3(server.endpoint, await s3_server.make_bucket())))
    assert wrong(findings) == []
    assert "refused" in of(findings, "object_store.checksums").message


async def test_probe_sees_checksums_that_are_unknown(deployment: Callable[..., Path], s3_server: S3Server) -> None:
    """A store that refuses every checksum header: fine while none is sent, an error where the settings send them."""

    def refuse(request: Request) -> Request | Answer:
        return xml_error(400, "InvalidRequest") if "x-amz-checksum-sha256" in request.headers else request

    async with altering(s3_server.endpoint, refuse) as server:
        cold = on_s3(server.endpoint, await s3_server.make_bucket())
        assert wrong(await examine(deployment(cold=cold))) == []
        findings = await examine(deployment(cold={**cold, "checksums": "when_supported"}))
    assert wrong(findings) == ["object_store.checksums", "object_store.write"]
    assert of(findings, "object_store.checksums").level is Level.ERROR
    assert "when_required" in of(findings, "object_store.checksums").hint


async def test_probe_sees_conditions_that_are_ignored(deployment: Callable[..., Path], s3_server: S3Server) -> None:
    """A store that overwrites in spite of If-None-Match, and one that does not know it: warnings."""
    async with altering(s3_server.endpoint, lambda request: without(request, "if-none-match")) as server:
        findings = await examine(deployment(cold=on_s3(server.endpoint, await s3_server.make_bucket())))
    assert of(findings, "object_store.conditional_write").level is Level.WARNING
    assert "ignored" in of(findings, "object_store.conditional_write").message

    def unknown(request: Request) -> Request | Answer:
        return xml_error(501, "NotImplemented") if "if-none-match" in request.headers else request

    async with altering(s3_server.endpoint, unknown) as server:
        findings = await examine(deployment(cold=on_s3(server.endpoint, await s3_server.make_bucket())))
    assert "not known" in of(findings, "object_store.conditional_write").message


async def test_probe_sees_classes_that_are_ignored(deployment: Callable[..., Path], s3_server: S3Server) -> None:
    """A store that keeps everything as STANDARD, or refuses classes: an error where a policy moves there."""
    async with altering(s3_server.endpoint, lambda request: without(request, "x-amz-storage-class")) as server:
        findings = await examine(deployment(cold=on_s3(server.endpoint, await s3_server.make_bucket())))
    for name in ("STANDARD_IA", "GLACIER"):
        found = of(findings, f"object_store.class.{name}")
        assert found.level is Level.ERROR
        assert "comes back as STANDARD" in found.message

    def refuse(request: Request) -> Request | Answer:
        named = request.headers.get("x-amz-storage-class", "STANDARD")
        return request if named == "STANDARD" else xml_error(400, "InvalidStorageClass")

    async with altering(s3_server.endpoint, refuse) as server:
        cold = on_s3(server.endpoint, await s3_server.make_bucket())
        findings = await examine(deployment(cold=cold, policies=[{"name": "stay", "match": {}}]))
    assert wrong(findings) == ["object_store.checksums", "object_store.class.STANDARD_IA"]
    assert of(findings, "object_store.class.STANDARD_IA").level is Level.WARNING


async def test_missing_rights_on_the_bucket_are_warnings(deployment: Callable[..., Path], s3_server: S3Server) -> None:
    """Each refused question names the permission; the others are answered, and the probe still runs."""
    asked = {
        "?lifecycle": "GetLifecycleConfiguration",
        "?versioning": "GetBucketVersioning",
        "?object-lock": "ObjectLock",
    }

    def refuse(request: Request) -> Request | Answer:
        denied = request.method == "GET" and any(word in request.target for word in asked)
        return xml_error(403, "AccessDenied") if denied else request

    async with altering(s3_server.endpoint, refuse) as server:
        findings = await examine(deployment(cold=on_s3(server.endpoint, await s3_server.make_bucket())))
    refused = [each for each in findings if each.level is Level.WARNING and "could not be checked" in each.message]
    assert [each.subject.rpartition(".")[2] for each in refused] == ["versioning", "object_lock", "lifecycle"]
    for each, permission in zip(refused, ("GetBucketVersioning", "ObjectLock", "Lifecycle"), strict=True):
        assert permission in each.hint
    assert of(findings, "object_store.range").level is Level.OK

    def read_only(request: Request) -> Request | Answer:
        return xml_error(403, "AccessDenied") if request.method in ("PUT", "POST", "DELETE") else request

    async with altering(s3_server.endpoint, read_only) as server:
        findings = await examine(deployment(cold=on_s3(server.endpoint, await s3_server.make_bucket())))
    assert of(findings, "object_store.write").level is Level.WARNING
    assert "s3:PutObject" in of(findings, "object_store.write").hint
    assert exit_code([each for each in findings if each.subject.startswith("object_store")]) == 0


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        ({"Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}, Level.ERROR),
        ({"Filter": {"Prefix": "env/test/packs/"}, "Expiration": {"Days": 30}}, Level.ERROR),
        ({"Filter": {"Prefix": "env/"}, "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}]}, Level.ERROR),
        ({"Filter": {"Prefix": "env/"}, "Transitions": [{"Days": 30, "StorageClass": "STANDARD_IA"}]}, Level.WARNING),
        ({"Filter": {"Prefix": "env/testing/"}, "Expiration": {"Days": 30}}, Level.OK),
        ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 30}}, Level.OK),
        ({"Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}, Level.OK),
        ({"Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}, Level.OK),
    ],
)
async def test_lifecycle_rule_that_touches_our_objects_is_named(
    rule: dict[str, Any], level: Level, deployment: Callable[..., Path], s3_server: S3Server
) -> None:
    """Rules that delete or archive what is ours are errors, rules that move it warnings, all others are none."""
    bucket = await s3_server.make_bucket()
    async with s3_server.admin() as admin:
        rules = {"Rules": [{"ID": "tidy", "Status": "Enabled", **rule}]}
        await admin.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    found = of(await examine(deployment(cold=on_s3(s3_server.endpoint, bucket))), "object_store.lifecycle")
    assert found.level is level
    assert level is Level.OK or "'tidy'" in found.message


async def test_object_lock_is_an_error_and_nothing_is_tried(
    deployment: Callable[..., Path], s3_server: S3Server
) -> None:
    """With a default retention the probe's own objects could not be removed; without one there is nothing to say."""
    bucket = f"test-{uuid4().hex}"
    async with s3_server.admin() as admin:
        await admin.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
        settings = deployment(cold=on_s3(s3_server.endpoint, bucket))
        assert of(await examine(settings), "object_store.object_lock").level is Level.OK
        kept = {"Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 7}}, "ObjectLockEnabled": "Enabled"}
        await admin.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=kept)
    before = await s3_server.versions(bucket)
    findings = await examine(settings)
    assert of(findings, "object_store.object_lock").level is Level.ERROR
    assert "7 days" in of(findings, "object_store.object_lock").message
    assert of(findings, "object_store.probe").level is Level.WARNING
    assert await s3_server.versions(bucket) == before


async def test_prefix_of_another_catalog_is_left_alone(
    deployment: Callable[..., Path], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """It is an error with its own exit code, and not even the probe writes there (design G8)."""
    settings = deployment()
    async with open_runtime(load_config(settings)) as runtime:
        await runtime.check()
    assert "belongs to this catalog" in of(await examine(settings), "object_store.owner").message
    before = sorted((tmp_path / "cold").rglob("*"))
    async with fresh_database(postgres_server) as other:
        await migrated(other)
        findings = await examine(deployment(database=other))
    assert of(findings, "object_store.owner").level is Level.ERROR
    assert exit_code(findings) == 7
    findings = await examine(deployment(database=f"postgresql://x@{NOWHERE}/x"))
    owner = of(findings, "object_store.owner")
    assert owner.level is of(findings, "object_store.probe").level is Level.WARNING
    assert owner.message == "whose the prefix is was not looked at: PostgreSQL cannot be asked now"
    assert "rebuild" not in owner.hint
    assert sorted((tmp_path / "cold").rglob("*")) == before


async def test_missing_bucket_is_an_error(deployment: Callable[..., Path], s3_server: S3Server) -> None:
    """And not a right that lacks."""
    findings = await examine(deployment(cold=on_s3(s3_server.endpoint, "no-such-bucket")))
    assert of(findings, "object_store.reachable").level is Level.ERROR
    assert "create the bucket" in of(findings, "object_store.reachable").hint


# -- the rest ------------------------------------------------------------------------------------------------------


async def test_master_key_that_does_not_open_is_an_error(
    database: str, places: Places, deployment: Callable[..., Path], tmp_path: Path
) -> None:
    """The right key is fine; another one wraps well, but opens nothing that is there; none at all is an error too."""
    keys = key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        await aged(shop, list(snapshots(3, created_at=shop.clock.now(), saga_name="secret")))
    settings = deployment(policies=ENCRYPTED, encryption={"key_file": str(keys)})
    findings = await examine(settings)
    assert of(findings, "encryption.master_key").level is Level.OK
    assert {each.level for each in findings if each.subject == "encryption.data_keys"} == {Level.OK}
    right = keys.read_bytes()
    keys.unlink()
    key_file(tmp_path, "other")
    findings = await examine(settings)
    assert Level.ERROR in {each.level for each in findings if each.subject == "encryption.data_keys"}
    assert right.split(b":")[1].strip() not in json.dumps([each.to_dict() for each in findings]).encode()
    keys.unlink()
    findings = await examine(settings)
    assert of(findings, "encryption.reachable").level is Level.ERROR
    assert exit_code(findings) == 4
    findings = await examine(deployment())
    assert Level.ERROR in {each.level for each in findings if each.subject == "encryption.data_keys"}
    keys.write_bytes(right)
    os.chmod(keys, 0o600)
    await sql(
        database, "DELETE FROM sagaz_tiering.saga_keys WHERE ctid = (SELECT min(ctid) FROM sagaz_tiering.saga_keys)"
    )
    findings = await examine(settings)
    assert any("lost their data key" in each.message for each in findings if each.level is Level.ERROR)


async def test_doubtful_policies_and_old_prices_are_warnings(deployment: Callable[..., Path], tmp_path: Path) -> None:
    """What `policy check` warns of is there, and prices older than a year or of another region."""
    hidden = [*POLICIES, {"name": "never", "match": {"saga_name": "a"}}]
    findings = await examine(deployment(policies=hidden))
    assert any("never used" in each.message for each in findings if each.subject == "policy")
    cold = {"url": f"file://{tmp_path / 'cold'}", **REGION}
    assert of(await examine(deployment(cold=cold)), "prices").level is Level.OK
    later = VirtualClock(SystemClock().now() + timedelta(days=800))
    assert of(await examine(deployment(cold=cold), clock=later), "prices").level is Level.WARNING
    cold["region"] = "xy-nowhere-1"
    assert "no prices of xy-nowhere-1" in of(await examine(deployment(cold=cold)), "prices").message


async def test_wrong_configuration_is_one_error(tmp_path: Path) -> None:
    """Exit code 2 and the line, with the same document as ever."""
    path = tmp_path / "tiering.yaml"
    path.write_text("tiers: {}\nno_such_key: 1\n")
    answer = await cli("doctor", "--json", "--config", path)
    assert answer.code == 2
    (found,) = [each for each in answer.document["findings"] if each["subject"] == "configuration"]
    assert "no_such_key" in found["message"]


async def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Passwords of servers that refuse, are down or cannot be parsed are in no line."""
    cold = {"url": "s3://bucket/p", "endpoint_url": f"http://{NOWHERE}", "access_key_id": "AKIA", "region": "us-east-1"}
    settings = write_config(
        tmp_path / "tiering.yaml",
        database=f"postgresql://u:pg-secret@{NOWHERE}/x",
        redis_url=f"redis://:redis-secret@{NOWHERE}/0",
        cold={**cold, "secret_access_key": "s3-secret"},
        policies=POLICIES,
    )
    answer = await cli("doctor", "--debug", "--config", settings)
    assert answer.code == 4
    for secret in ("pg-secret", "redis-secret", "s3-secret"):
        assert secret not in answer.out + answer.err


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("redis[hiredis]<99,>=5.2", None),
        ("redis>=99", Level.WARNING),
        ("redis<5", Level.WARNING),
        ("no-such-package-of-ours>=1", Level.ERROR),
        ('no-such-package-of-ours>=1; extra == "embedded"', None),
    ],
)
def test_package_that_lacks_is_named(text: str, level: Level | None) -> None:
    """Missing ones are errors, others than asked for warnings; those of extras are not asked for."""
    found = Findings()
    check_requirement(text, found)
    assert [each.level for each in found] == ([] if level is None else [level])
