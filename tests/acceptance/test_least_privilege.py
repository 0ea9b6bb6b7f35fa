"""The rights of `docs/deployment.md`, as they stand there, are enough for everything; one that is missing is named."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from support.iam import Guard
from support.pages import blocks
from support.payload import saga
from support.processes import redis_do
from support.s3_server import S3Server
from support.tiers import NOW, config, product
from support.yaml_config import write_config

from sagaz_tiering.app.parts import open_database, open_parts
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.doctor import Level, examine
from sagaz_tiering.doctor.finding import Findings
from sagaz_tiering.doctor.hot_tier import ON_A_KEY, WITHOUT_A_KEY, check_hot_tier
from sagaz_tiering.doctor.object_store import check_object_store
from sagaz_tiering.doctor.postgresql import check_postgresql
from sagaz_tiering.embedded import PostgresServer, RedisServer
from sagaz_tiering.jobs import JOBS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deployment.md"
BUCKET = "acme-saga-snapshots"
POLICIES: list[dict[str, Any]] = [
    {
        "name": "frozen",
        "match": {"saga_name": "frozen"},
        "move": [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "60d"}],
    },
    {"name": "short", "match": {"saga_name": "short"}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "50d"},
    {"name": "fast", "match": {"saga_name": "fast"}, "durability": "hot", "retain": "forever"},
    {"name": "rest", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "900d"},
]
DAY = timedelta(days=1)
WITHOUT_VERSIONS = "s3:DeleteObject"
"""The only action that a bucket with versions does not need."""
ACL = {
    "-@read": "+get",
    "-@write": "+set",
    "-@scripting": "+evalsha",
    "-zadd": "+zadd",
    "-scan": "+scan",
    "-time": "+time",
    "resetkeys ~other*": "~sagaz*",
}
"""What is taken away, and what doctor says is missing."""


def block(language: str, word: str = "") -> str:
    """The only one of that kind on the page."""
    found = [each for each in blocks(PAGE.read_text(encoding="utf-8")) if each.language == language]
    (only,) = [each.text for each in found if not word or word in each.words]
    return only


@dataclass(slots=True)
class Place:
    """Servers on which the page's accounts are made, under names of their own."""

    postgres: PostgresServer
    redis: RedisServer
    guard: Guard
    endpoint: str
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """What a configuration says for these accounts."""
        host = urlsplit(self.postgres.url).netloc.rpartition("@")[2]
        cold = {"url": f"s3://{BUCKET}/production", "endpoint_url": self.endpoint, "region": "us-east-1"}
        keys = {"access_key_id": "testing", "secret_access_key": "testing-secret"}
        return {
            "database": f"postgresql://{self.name}:PASSWORD@{host}/{self.name}",
            "redis_url": f"redis://{self.name}:PASSWORD@127.0.0.1:{urlsplit(self.redis.url).port}/0",
            "cold": {**cold, **keys},
            "policies": POLICIES,
        }

    @property
    def owner(self) -> str:
        """The URL of who owns the tables."""
        return (
            str(self.settings["database"])
            .replace(":PASSWORD", ":OWNER-PASSWORD")
            .replace("//", "//", 1)
            .replace(f"//{self.name}:", f"//{self.name}_owner:")
        )

    async def sql(self, url: str, text: str) -> None:
        """Each statement by itself, as psql does."""
        connection = await asyncpg.connect(url, timeout=120)
        try:
            for statement in filter(str.strip, text.split(";")):
                # "sagaz" as a name of its own is the account and the database of the page.
                await connection.execute(_renamed(statement, self.name))
        finally:
            await connection.close()

    async def acl(self, *more: str) -> None:
        """The page's rule, and what is taken from it."""
        words = [_renamed(word, self.name) if at == 2 else word for at, word in enumerate(block("redis").split())]
        await redis_do(self.redis.url, "ACL", "DELUSER", self.name)
        await redis_do(self.redis.url, *words, *more)


def _renamed(text: str, name: str) -> str:
    return re.sub(r"\bsagaz(?=_owner\b|\b(?!_))", name, text)


async def make_bucket(s3: S3Server, *, versions: bool) -> None:
    """The page's bucket."""
    async with s3.admin() as client:
        await client.create_bucket(Bucket=BUCKET)
        if versions:
            await client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})


async def drop_bucket(s3: S3Server) -> None:
    """With all that is in it."""
    async with s3.admin() as client:
        for each in await s3.versions(BUCKET):
            await client.delete_object(Bucket=BUCKET, Key=each["Key"], VersionId=each["VersionId"])
        await client.delete_bucket(Bucket=BUCKET)


@asynccontextmanager
async def opened(postgres: PostgresServer, redis: RedisServer, s3: S3Server) -> AsyncIterator[Place]:
    """Accounts as the page makes them, a migrated catalog, a versioned bucket behind its policy."""
    name = f"sagaz{uuid4().hex[:8]}"
    guard = Guard(json.loads(block("json", "iam")), s3.endpoint)
    await make_bucket(s3, versions=True)
    async with guard.server() as server:
        place = Place(postgres, redis, guard, server.endpoint, name)
        await place.sql(postgres.url, block("sql", "administrator"))
        async with open_database(config(**{**place.settings, "database": place.owner})) as db:
            await migrate(db)
        await place.sql(place.owner, block("sql", "owner"))
        await place.acl()
        try:
            yield place
        finally:
            await redis_do(redis.url, "ACL", "DELUSER", name)
            await place.sql(
                postgres.url, f"DROP DATABASE {name} WITH (FORCE); DROP ROLE {name}; DROP ROLE {name}_owner"
            )
            await drop_bucket(s3)


@pytest.fixture
async def place(
    postgres_server: PostgresServer, redis_server: RedisServer, redis_url: str, s3_server: S3Server
) -> AsyncIterator[Place]:
    """The page, followed."""
    async with opened(postgres_server, redis_server, s3_server) as found:
        yield found


def test_policy_of_the_page_is_the_file() -> None:
    """Which overlays and the page point at."""
    assert (ROOT / "deploy" / "aws" / "iam-policy.json").read_text(encoding="utf-8") == block("json", "iam")


async def test_everything_works_with_exactly_the_documented_rights(place: Place, tmp_path: Path) -> None:
    """Saves, reads, every job, hold, restore, erasure, doctor: nothing is refused, and nothing is granted in vain."""
    before = await redis_do(place.redis.url, "ACL", "LOG", "RESET")
    assert before
    settings = config(**place.settings, jobs={"expire_max_share": "1.0", "retire_grace": "1h", "collect_min_age": "1h"})
    async with product(settings, schema=False) as shop:
        storage, kept = shop.storage, []
        for number, name in enumerate(("frozen", "short", "fast", "rest", "rest", "rest")):
            kept.append(saga(number, begun=NOW, saga_name=name))
            for snapshot in kept[-1]:
                await storage.save_snapshot(snapshot)
        await storage.hold(kept[3][0].saga_id, "case", who="counsel")
        for days in (9, 55, 9):
            shop.clock.advance(days * DAY)
            for job in JOBS:
                report = await shop.run(job)
                assert not report.counts.get("failed"), (job, report.notes)
        await storage.release(kept[3][0].saga_id, "over", who="counsel")
        await storage.forget(kept[4][0].saga_id, reason="asked", who="us")
        await storage.delete_snapshot(kept[5][0].snapshot_id)
        await storage.restore(saga_id=kept[0][0].saga_id)
        for _ in range(3):
            shop.clock.advance(2 * DAY)
            for job in JOBS:
                report = await shop.run(job)
                assert not report.counts.get("failed"), (job, report.notes)
        assert await storage.get_snapshot(kept[3][0].snapshot_id) == kept[3][0]
        assert await storage.get_snapshot(kept[0][0].snapshot_id) == kept[0][0]
        assert await storage.list_snapshots(kept[4][0].saga_id) == []
        assert await storage.list_snapshots(kept[1][0].saga_id) == []
    findings = await examine(write_config(tmp_path / "tiering.yaml", **place.settings))
    assert [each.message for each in findings if any(word in each.hint.lower() for word in ("grant", "acl "))] == []
    assert await redis_do(place.redis.url, "ACL", "LOG") == []
    assert place.guard.refused == set()
    granted = {action for each in place.guard.policy["Statement"] for action in each["Action"]}
    assert granted - place.guard.used <= {"s3:DeleteObject"}, (
        "granted in vain; that one is for a bucket without versions"
    )


def test_doctor_asks_for_every_command_that_scripts_send() -> None:
    """The list of what it tries is not behind the scripts."""
    scripts = (ROOT / "sagaz_tiering").rglob("*.lua")
    hot = [path.read_text(encoding="utf-8") for path in scripts if "hot" in path.parts]
    sent = {name.upper() for text in hot for name in re.findall(r"redis\.p?call\('(\w+)'", text)}
    assert len(sent) > 20
    assert sent - ON_A_KEY.keys() - WITHOUT_A_KEY.keys() - {"RENAME", "INFO"} == set()


async def test_doctor_names_every_right_that_is_missing(place: Place, s3_server: S3Server) -> None:
    """Each action of the policy, each grant, each category and some commands of the ACL, taken away by itself."""

    async def told(check: Any) -> str:
        async with open_parts(config(**place.settings), clock=SystemClock()) as parts:
            found = Findings()
            with found.guarded("server"):
                await check(parts, found)
        return " ".join(f"{each.message} {each.hint}" for each in found if each.level is not Level.OK)

    checks = (check_object_store, check_hot_tier, partial(check_postgresql, caches=True))
    assert [said for check in checks if "grant" in (said := await told(check)).lower() or "ACL" in said] == []
    unnamed = []
    actions = {action for each in place.guard.policy["Statement"] for action in each["Action"]}
    for action in sorted(actions - {WITHOUT_VERSIONS}):
        place.guard.taken = {action}
        unnamed += [action] if action not in await told(check_object_store) else []
    await drop_bucket(s3_server)
    await make_bucket(s3_server, versions=False)
    place.guard.taken = {WITHOUT_VERSIONS}
    unnamed += [WITHOUT_VERSIONS] if f"{WITHOUT_VERSIONS} on" not in await told(check_object_store) else []
    for taken, named in ACL.items():
        await place.acl(*taken.split())
        said = await told(check_hot_tier)
        unnamed += [taken] if not re.search(rf"ACL SETUSER {place.name} [^(;]*{re.escape(named)}(?!\w)", said) else []
    await place.acl()
    for rights, what in re.findall(r"^GRANT (.*) ON (.*) TO sagaz;$", block("sql", "owner"), re.MULTILINE):
        for right in rights.split(", "):
            await place.sql(place.owner, f"REVOKE {right} ON {what} FROM sagaz")
            wanted = rf"GRANT [A-Z, ]*\b{right}\b[A-Z, ]* ON {what} TO {place.name}"
            unnamed += [f"{right} {what}"] if not re.search(wanted, await told(checks[2])) else []
            await place.sql(place.owner, f"GRANT {right} ON {what} TO sagaz")
    assert unnamed == []
