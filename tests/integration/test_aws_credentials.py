"""Credentials of AWS that come late, expire, rotate or are refused: nothing fails to open, and the error says identity.

A scripted server is S3, and another one STS or the agent of a container; files are in a home of the test's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.listening import listening
from support.payload import snapshots
from support.s3_server import Answer, Drop, Hang, Request, S3Server, ScriptedServer, free_port, s3_options, xml_error
from support.tiers import config, product

from sagaz_tiering.config.sections import EncryptionSettings
from sagaz_tiering.drivers import aws as aws_driver
from sagaz_tiering.errors import ColdTierUnavailable, CredentialsUnavailable, MasterKeyUnavailable
from sagaz_tiering.keys.kms import Kms
from sagaz_tiering.objects.s3.store import S3ObjectStore

DATA = b"the bytes of a pack"
ROLE = "arn:aws:iam::111122223333:role/tiering"
CONFIG = """
[profile sso]
sso_session = corp
sso_account_id = 111122223333
sso_role_name = ReadOnly
region = us-east-1
[sso-session corp]
sso_start_url = https://corp.awsapps.com/start
sso_region = us-east-1
sso_registration_scopes = sso:account:access
[profile process]
credential_process = /bin/false
[profile chained]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = nowhere
"""

Reply = Answer | type[Hang] | type[Drop]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials, and an environment without any; a search that failed is not remembered."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr(aws_driver, "_PAUSE_S", 0.0)
    (tmp_path / "config").write_text(CONFIG)
    return tmp_path


def serving(answer: Callable[[Request], Reply]) -> ScriptedServer:
    async def script(request: Request) -> Reply:
        return answer(request)

    return ScriptedServer(script)


def wait_for_the_end(pid: int) -> None:
    """Fails unless the process ends within a minute."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([process], [], [], 60)[0]
    finally:
        os.close(process)


async def store_at(endpoint: str) -> S3ObjectStore:
    return await S3ObjectStore.open(s3_options(endpoint, "bucket", access_key_id=None, secret_access_key=None))


def keys_file(home: Path, access: str) -> None:
    text = f"[default]\naws_access_key_id = {access}\naws_secret_access_key = secret-{access}\n"
    (home / "credentials").write_text(text)


def signed_by(request: Request) -> str:
    found = re.search("Credential=([^/]+)/", request.headers.get("authorization", ""))
    return found[1] if found else ""


async def test_store_opens_without_credentials_and_works_once_they_come(home: Path) -> None:
    """Nothing is asked for at opening; a call says that the identity is missing, and a later one finds it."""
    async with serving(lambda _: Answer(body=DATA)) as s3, await store_at(s3.endpoint) as store:
        with pytest.raises(CredentialsUnavailable, match="nothing found") as caught:
            await store.get("a.pack")
        assert not caught.value.permanent
        assert "bucket" not in caught.value.hint
        assert not s3.requests
        keys_file(home, "AKIALATE")
        assert await store.get("a.pack") == DATA
        assert signed_by(s3.requests[0]) == "AKIALATE"


async def test_application_starts_and_saves_without_credentials(
    home: Path, s3_server: S3Server, database: str, redis_url: str
) -> None:
    """The runtime opens, saves and reads what is hot; its check (which a daemon repeats) passes once they come."""
    cold = {
        "url": f"s3://{await s3_server.make_bucket()}/store",
        "endpoint_url": s3_server.endpoint,
        "region": "us-east-1",
    }
    async with product(config(database=database, redis_url=redis_url, cold=cold)) as shop:
        saved = next(iter(snapshots(1, created_at=shop.clock.now())))
        await shop.storage.save_snapshot(saved)
        assert await shop.storage.get_snapshot(saved.snapshot_id) == saved
        with pytest.raises(CredentialsUnavailable):
            await shop.runtime.check()
        keys_file(home, "AKIALATE")
        await shop.runtime.check()


async def test_expired_credentials_are_looked_for_again(home: Path) -> None:
    """Keys that S3 calls expired are read anew before the next request, for somebody rotates the file."""

    def answer(request: Request) -> Answer:
        return Answer(body=DATA) if signed_by(request) == "AKIANEW" else xml_error(400, "ExpiredToken")

    keys_file(home, "AKIAOLD")
    async with serving(answer) as s3, await store_at(s3.endpoint) as store:
        with pytest.raises(CredentialsUnavailable, match="ExpiredToken"):
            await store.get("a.pack")
        keys_file(home, "AKIANEW")
        assert await store.get("a.pack") == DATA


async def test_agent_of_the_container_that_comes_late_is_asked_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ECS and Pod Identity: an agent that answers 500 at first keeps nothing from opening and is asked again."""
    given = {
        "AccessKeyId": "AKIAPOD",
        "SecretAccessKey": "s",
        "Token": "t",
        "Expiration": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    there = False

    def agent(_: Request) -> Answer:
        return Answer(body=json.dumps(given).encode()) if there else Answer(status=400, body=b"not yet")

    async with serving(agent) as pod, serving(lambda _: Answer(body=DATA)) as s3:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{pod.endpoint}/v1/credentials")
        async with await store_at(s3.endpoint) as store:
            with pytest.raises(CredentialsUnavailable) as caught:
                await store.get("a.pack")
            assert "Pod Identity" in caught.value.hint
            there = True
            assert await store.get("a.pack") == DATA
            assert signed_by(s3.requests[0]) == "AKIAPOD"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((400, "ExpiredTokenException"), "has expired"),
        ((403, "AccessDenied"), "trust policy"),
        ((400, "InvalidIdentityToken"), "OIDC"),
        (None, "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ],
)
async def test_refusal_of_sts_is_no_answer_of_the_bucket(
    answer: tuple[int, str] | None, hint: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IRSA: what STS answers is told as STS's, with what to do; S3 is not asked."""

    def refusing(_: Request) -> Answer:
        assert answer is not None
        error = f"<Error><Type>Sender</Type><Code>{answer[1]}</Code><Message>no</Message></Error>"
        body = f"<ErrorResponse>{error}</ErrorResponse>"
        return Answer(status=answer[0], headers={"Content-Type": "text/xml"}, body=body.encode())

    async with serving(refusing) as sts, serving(lambda _: Answer(body=DATA)) as s3:
        if answer is not None:
            (home / "token").write_text("x.y.z")
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "token"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.endpoint)
        async with await store_at(s3.endpoint) as store:
            with pytest.raises(CredentialsUnavailable) as caught:
                await store.check()
        assert hint in caught.value.hint
        assert "no AWS credentials" in str(caught.value)
        assert not s3.requests


@pytest.mark.parametrize(
    ("profile", "hint"), [("sso", "aws sso login"), ("process", "by hand"), ("chained", "AWS_PROFILE")]
)
async def test_profile_without_usable_credentials_says_what_to_do(
    profile: str, hint: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSO that nobody logged in to, a `credential_process` that fails, a profile that names a missing one."""
    monkeypatch.setenv("AWS_PROFILE", profile)
    async with await store_at(f"http://127.0.0.1:{free_port()}") as store:
        with pytest.raises(CredentialsUnavailable) as caught:
            await store.check()
    assert hint in caught.value.hint


async def test_credentials_that_hang_are_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `credential_process` that never ends costs the limit of a search, not the request's or for ever, and ends."""
    script = home / "hangs"
    script.write_text(f"#!/bin/sh\necho $$ > {home}/pid\nexec sleep 600\n")
    script.chmod(0o700)
    (home / "config").write_text(f"[default]\ncredential_process = {script}\n")
    monkeypatch.setattr(aws_driver, "_SEARCH_S", 2.0)
    async with await store_at(f"http://127.0.0.1:{free_port()}") as store:
        with pytest.raises(CredentialsUnavailable, match=r"within 2 s"):
            await store.check()
    pid = int((home / "pid").read_text())
    await asyncio.to_thread(wait_for_the_end, pid)


async def test_missing_identity_is_told_by_kms_too(home: Path) -> None:
    """A master key in KMS says that credentials are missing, instead of blaming the key."""
    kms = Kms(
        EncryptionSettings(
            kms_key_id="alias/k", kms_region="us-east-1", kms_endpoint_url=f"http://127.0.0.1:{free_port()}"
        )
    )
    with pytest.raises(MasterKeyUnavailable, match="no AWS credentials") as caught:
        await kms.current_id()
    assert "access key" in caught.value.hint
    await kms.close()


async def test_server_without_tls_is_told_apart(home: Path) -> None:
    """An https:// endpoint at a port that speaks plain HTTP says that no TLS is spoken."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    keys_file(home, "AKIA")
    async with listening(plain) as port, await store_at(f"https://127.0.0.1:{port}") as store:
        with pytest.raises(ColdTierUnavailable, match="speaks no TLS") as caught:
            await store.get("a.pack")
    assert "http://" in caught.value.hint
