"""TLS means the right server: nothing is told to one whose certificate is not for the host that was asked (G13)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from support.s3_server import s3_options
from support.tls import BAD, Authority, authority, server_context, tls_server

from sagaz_tiering.config.sections import CatalogSettings, EncryptionSettings
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.drivers.aws import aws_session
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.errors import BucketUnusable, CatalogUnavailable, HotTierUnavailable, MasterKeyUnavailable
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.keys.kms import Kms
from sagaz_tiering.objects.s3.store import S3ObjectStore
from sagaz_tiering.sagaz_engine.imports.s3 import SagazS3Source

pytestmark = pytest.mark.guarantee("G13")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """A certificate authority that the SDK is told to trust, and credentials."""
    made = authority(tmp_path)
    for name, value in {
        "AWS_CA_BUNDLE": str(made.path),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return made


async def ask_s3(port: int) -> None:
    """Look at a bucket."""
    async with await S3ObjectStore.open(s3_options(f"https://127.0.0.1:{port}", "bucket")) as store:
        await store.check()


async def ask_sagaz_s3(port: int) -> None:
    """Read what sagaz wrote."""
    source = SagazS3Source("bucket", endpoint_url=f"https://127.0.0.1:{port}")
    async with source:
        async for _ in source.iter_snapshots():
            pass


async def ask_kms(port: int) -> None:
    """Wrap a data key."""
    kms = Kms(
        EncryptionSettings(
            kms_key_id="alias/ours", kms_region="us-east-1", kms_endpoint_url=f"https://127.0.0.1:{port}"
        )
    )
    try:
        await kms.wrap(bytes(32), uuid4(), uuid4())
    finally:
        await kms.close()


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    ("ask", "error"),
    [(ask_s3, BucketUnusable), (ask_sagaz_s3, BucketUnusable), (ask_kms, MasterKeyUnavailable)],
    ids=["s3", "sagaz-s3", "kms"],
)
async def test_server_with_a_wrong_certificate_hears_nothing(
    ours: Authority, tmp_path: Path, kind: str, ask: Callable[[int], Awaitable[None]], error: type[Exception]
) -> None:
    """Another name, expired, self-signed, another authority: refused, and the error says that it is TLS."""
    async with tls_server(server_context(tmp_path, ours, kind)) as server:
        with pytest.raises(error, match="TLS certificate") as caught:
            await ask(server.port)
        assert "AWS_CA_BUNDLE" in caught.value.hint  # type: ignore[attr-defined]
        assert server.connections
        assert server.received == b""


async def test_server_with_the_right_certificate_is_asked(ours: Authority, tmp_path: Path) -> None:
    """AWS_CA_BUNDLE is honoured."""
    async with tls_server(server_context(tmp_path, ours), answer=OK) as server:
        await ask_s3(server.port)
        assert server.received.startswith(b"HEAD /bucket")


async def test_certificate_is_checked_behind_a_proxy_too(
    ours: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one at the end of the tunnel counts, as it does without."""
    for kind in (*BAD, "good"):
        async with tls_server(server_context(tmp_path, ours, kind), answer=OK, before="proxy") as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("NO_PROXY", "")
            if kind == "good":
                await ask_s3(1)
                assert b"CONNECT 127.0.0.1:1 " in proxy.asked_through[0]
                assert proxy.received.startswith(b"HEAD /bucket")
                continue
            with pytest.raises(BucketUnusable, match="TLS certificate"):
                await ask_s3(1)
            assert proxy.received == b"", kind


async def test_credentials_are_fetched_from_the_right_server_only(ours: Authority, tmp_path: Path) -> None:
    """Clients that the SDK makes by itself, for STS say, have the same session."""
    async with tls_server(server_context(tmp_path, ours, "another name")) as server:
        session = aws_session(region="us-east-1")
        async with session.client("sts", endpoint_url=f"https://127.0.0.1:{server.port}") as sts:
            with pytest.raises(Exception, match=r"(?i)certificate"):
                await sts.get_caller_identity()
        assert server.received == b""


@pytest.mark.parametrize("kind", BAD)
async def test_redis_and_postgresql_with_a_wrong_certificate_hear_nothing(
    ours: Authority, tmp_path: Path, kind: str
) -> None:
    """rediss:// and sslmode=verify-full."""
    context, trusted = server_context(tmp_path, ours, kind), quote(str(ours.path))
    async with tls_server(context) as server:
        url = f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={trusted}"
        async with HotTier(HotSettings(url=url, socket_timeout=timedelta(seconds=20))) as hot:
            with pytest.raises(HotTierUnavailable, match=r"(?i)certificate"):
                await hot.connection.ping()
        assert server.connections
        assert server.received == b""
    async with tls_server(context, before="postgresql") as server:
        url = f"postgresql://me:secret@127.0.0.1:{server.port}/db?sslmode=verify-full&sslrootcert={trusted}"
        async with Database(CatalogSettings(url=url)) as db:
            with pytest.raises(CatalogUnavailable, match=r"(?i)certificate"):
                await db.fetchval("SELECT 1")
        assert server.connections
        assert server.received == b""


async def test_redis_and_postgresql_with_the_right_certificate_are_asked(ours: Authority, tmp_path: Path) -> None:
    """The same settings, the same authority."""
    context, trusted = server_context(tmp_path, ours), quote(str(ours.path))
    async with tls_server(context) as server:
        url = f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={trusted}"
        async with HotTier(HotSettings(url=url)) as hot:
            with pytest.raises(HotTierUnavailable):
                await hot.connection.ping()
        assert server.received
    async with tls_server(context, before="postgresql") as server:
        url = f"postgresql://me:secret@127.0.0.1:{server.port}/db?sslmode=verify-full&sslrootcert={trusted}"
        async with Database(CatalogSettings(url=url)) as db:
            with pytest.raises(CatalogUnavailable):
                await db.fetchval("SELECT 1")
        assert server.received
