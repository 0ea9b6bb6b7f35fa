"""What errors tell people to do, by the words of each server; and that it is there where the package is installed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

import sagaz_tiering
from sagaz_tiering.app.parts import Parts
from sagaz_tiering.cli.options import CONFIG_PLACES
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.load import load_config
from sagaz_tiering.config.tiers import ColdSettings
from sagaz_tiering.drivers.postgresql.refusals import missing_grant, reach_hint, refusal_hint
from sagaz_tiering.drivers.redis.answers import missing_right
from sagaz_tiering.errors import ColdTierUnavailable
from sagaz_tiering.objects.s3.answers import Asked, translated
from sagaz_tiering.objects.s3.options import S3Options

PACKAGE = Path(sagaz_tiering.__file__).parent


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("permission denied for schema sagaz_tiering", "GRANT USAGE ON SCHEMA sagaz_tiering TO app"),
        ("permission denied for table packs", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA"),
        ("permission denied for sequence packs_pack_id_seq", "GRANT USAGE ON ALL SEQUENCES IN SCHEMA sagaz_tiering"),
        ("permission denied for database shop", "GRANT CREATE, CONNECT ON DATABASE shop TO app"),
        ("must be owner of table packs", "only the owner"),
        ("verboten", "grant it to app"),
    ],
)
def test_refusal_of_postgresql_names_the_grant(said: str, word: str) -> None:
    """Each kind of object has its own statement; words that are not known still name the user."""
    assert word in missing_grant(said, "postgresql://app:***@db/shop", "catalog.url")


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ('no pg_hba.conf entry for host "10.0.0.1", user "app", database "shop", no encryption', "sslmode=require"),
        ('no pg_hba.conf entry for host "10.0.0.1", user "app", database "shop", SSL encryption', "pg_hba.conf"),
        ('password authentication failed for user "app"', "user and password"),
        ('database "shop" does not exist', "createdb --owner=app --encoding=UTF8 shop)"),
        ('role "root" does not exist', "CREATE ROLE root LOGIN,"),
        ('role "the shop" does not exist', 'CREATE ROLE "the shop" LOGIN,'),
        ('role "app" is not permitted to log in', "ALTER ROLE app LOGIN,"),
    ],
)
def test_login_that_postgresql_refuses_is_told_apart(said: str, word: str) -> None:
    """Only a wrong password blames the password."""
    hint = refusal_hint(said, "postgresql://app:***@db/shop", "catalog.url")
    assert word in hint
    assert ("password" in hint) is ("password" in said)


@pytest.mark.parametrize(
    ("shown", "setting", "words"),
    [
        (
            "postgresql://app@db/shop",
            "catalog.url",
            "gives no password: set SAGAZ_TIERING_CATALOG__URL=postgresql://app:PASSWORD@db/shop,",
        ),
        ("postgresql://db/shop", "catalog.url", "SAGAZ_TIERING_CATALOG__URL=postgresql://USER:PASSWORD@HOST/DATABASE,"),
        ("postgresql://app@db/shop", "connection_string", "whose URL gives no password"),
    ],
)
def test_password_that_nobody_gave_is_not_called_wrong(shown: str, setting: str, words: str) -> None:
    """The hint says where one goes."""
    hint = refusal_hint('password authentication failed for user "app"', shown, setting)
    assert words in hint


def test_hints_name_the_variable_that_gave_the_url(tmp_path: Path) -> None:
    """Not the file, which says something else; grants are the catalog's all the same."""
    path = tmp_path / "tiering.yaml"
    path.write_text(
        "tiers: {hot: {url: redis://cache}, cold: {url: s3://bucket/p}}\n"
        "catalog: {url: postgresql://db/shop}\n"
        "policies: [{name: all, match: {}}]\n"
    )
    variables = {
        "SAGAZ_TIERING_CATALOG__URL": "postgresql://app@other/shop",
        "SAGAZ_TIERING_TIERS__HOT__URL": "redis://elsewhere",
    }
    named = "catalog.url (SAGAZ_TIERING_CATALOG__URL)"
    config = load_config(path, variables)
    database = Parts(config, SystemClock()).database()
    assert database.setting == named
    assert Parts(load_config(path, {}), SystemClock()).database().setting == "catalog.url"
    denied = missing_grant("permission denied for table packs", database.shown_url, database.setting)
    assert "ON ALL TABLES IN SCHEMA sagaz_tiering TO app" in denied
    hot = Parts(config, SystemClock()).hot_settings()
    assert hot.url.named("tiers.hot.url") == "tiers.hot.url (SAGAZ_TIERING_TIERS__HOT__URL)"


def test_missing_tls_of_postgresql_is_told() -> None:
    """From what is down."""
    assert "no TLS" in reach_hint('PostgreSQL server at "db:5432" rejected SSL upgrade', "catalog.url")
    assert "reachable" in reach_hint("Connect call failed", "catalog.url")


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("User few has no permissions to run the 'config|get' command", "ACL SETUSER few +config|get"),
        ("this user has no permissions to run the 'get' command or its subcommand", "ACL SETUSER app +get"),
        ("No permissions to access a key", "ACL SETUSER app ~sagaz*"),
        ("this user has no permissions to access one of the keys used as arguments", "ACL SETUSER app ~sagaz*"),
    ],
)
def test_refusal_of_redis_names_the_acl_command(said: str, command: str) -> None:
    """In the words of Redis 6 and 7."""
    where = "redis://app:***@cache:6379/0"
    assert command in missing_right(said, where=where, setting="tiers.hot.url", keys="sagaz*")


@pytest.mark.parametrize(
    ("code", "status", "text", "words"),
    [
        ("AccessDenied", 403, "no", ("s3:GetObject on arn:aws:s3:::b/p/*", "s3:ListBucket on arn:aws:s3:::b")),
        ("AccessDenied", 403, "Requester Pays bucket", ("Requester Pays",)),
        ("AccessDenied", 403, "not authorized to perform: kms:Decrypt on the KMS key", ("kms:Decrypt",)),
        ("QuotaExceeded", 403, "full", ("raise the quota",)),
        ("XMinioStorageFull", 507, "full", ("raise the quota",)),
        ("KMS.DisabledException", 400, "key is disabled", ("enable it",)),
        ("InvalidAccessKeyId", 403, "unknown", ("access key",)),
        ("ExpiredToken", 400, "expired", ("renew",)),
        ("RequestTimeTooSkewed", 403, "late", ("clock",)),
    ],
)
def test_answer_of_s3_says_what_to_do(code: str, status: int, text: str, words: tuple[str, ...]) -> None:
    """Rights, quota, keys, clock: each by its own words."""
    answer = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translated(
        ClientError(answer, "GetObject"),  # type: ignore[arg-type]  # as much of it as is read
        Asked(operation="GetObject", key="p/a.pack"),
        S3Options(bucket="b", prefix="p", settings=ColdSettings(url="s3://bucket/p")),
    )
    assert [word for word in words if word not in error.hint] == []


@pytest.mark.parametrize("code", ["BadDigest", "RequestTimeTooSkewed", "PermanentRedirect", "Whatever"])
def test_busy_store_is_asked_again_whatever_code_it_has_for_it(code: str) -> None:
    """409 of a write, 429 and 5xx: the status says so."""
    for status in (409, 429, 500, 503):
        answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        error = translated(
            ClientError(answer, "PutObject"),  # type: ignore[arg-type]  # as much of it as is read
            Asked(operation="PutObject", key="p/a.pack"),
            S3Options(bucket="b", prefix="p", settings=ColdSettings(url="s3://bucket/p")),
        )
        assert type(error) is ColdTierUnavailable
        assert not error.permanent


def test_no_message_names_a_file_that_only_the_repository_has() -> None:
    """Whoever installed the wheel has neither docs/ nor config/."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "reference.py":  # makes docs/configuration.md, in the repository
            continue
        tree = ast.parse(path.read_text())
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
                named = re.findall(r"\b(?:docs|config|examples|deploy|tests)/[\w./-]+", node.value)
                found += [f"{path.name}: {each}" for each in named if Path(each) not in CONFIG_PLACES]
    assert found == []
