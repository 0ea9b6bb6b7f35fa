"""URLs: passwords never show, and what cannot be used is refused with a fix."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.config.urls import (
    ColdUrl,
    EndpointUrl,
    PostgresUrl,
    RedisUrl,
    SecretUrl,
    database_identity,
    file_path,
    has_password,
    postgres_address,
    redacted,
    without_secrets,
)
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.redis.sentinels import sentinel_options
from sagaz_tiering.drivers.redis.url import parse_redis_url
from sagaz_tiering.errors import ConfigError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        (f"redis://:{SECRET}@localhost:6379/0", "redis://:***@localhost:6379/0"),
        (f"postgresql://sagaz:{SECRET}@db:5432/sagaz", "postgresql://sagaz:***@db:5432/sagaz"),
        (f"redis://{SECRET}@localhost", "redis://***@localhost"),
        ("postgresql://sagaz@db:5432/sagaz", "postgresql://sagaz@db:5432/sagaz"),
        (f"postgresql://a/{SECRET}@db/sagaz", "postgresql://***@db/sagaz"),
        (f"postgresql://u:{SECRET}/x#{SECRET}@db/sagaz", "postgresql://u:***@db/sagaz"),
        (f"postgresql://u:a@{SECRET}@db/sagaz", "postgresql://u:***@db/sagaz"),
        (f"u:{SECRET}@db/sagaz", "u:***@db/sagaz"),
        (f"postgresql://db/sagaz?user=u&password={SECRET}", "postgresql://db/sagaz?user=u&password=***"),
        (f"postgresql://db/sagaz?sslpassword={SECRET}&a=b", "postgresql://db/sagaz?sslpassword=***&a=b"),
        (f"redis+sentinel://u:{SECRET}@a:1,b:2/m/0", "redis+sentinel://u:***@a:1,b:2/m/0"),
        (f"redis+sentinel://a,b/m?sentinel_password={SECRET}", "redis+sentinel://a,b/m?sentinel_password=***"),
        (f"host=db user=u password={SECRET}", "host=db user=u password=***"),
        ("embedded", "embedded"),
    ],
)
def test_redacted_hides_every_form_of_password(url: str, shown: str) -> None:
    """Credentials before the host, unescaped ones, and those in parameters."""
    assert redacted(url) == shown


@given(st.text(min_size=1), st.sampled_from(["redis", "postgresql", "https"]))
def test_redacted_never_contains_the_password(password: str, scheme: str) -> None:
    """Whatever the password is made of, escaped or not."""
    marked = f"<{password}>"
    assert marked not in redacted(f"{scheme}://user:{marked}@host:1/0")


def test_secret_url_shows_itself_redacted_everywhere() -> None:
    """repr, str, format and JSON hide the password; get_secret_value() is the real one."""
    url = SecretUrl(f"redis://:{SECRET}@localhost")
    shown = [repr(url), str(url), f"{url}", TypeAdapter(SecretUrl).dump_json(url).decode()]
    assert all(SECRET not in text and "localhost" in text for text in shown)
    assert url.get_secret_value() == f"redis://:{SECRET}@localhost"


@pytest.mark.parametrize(
    ("kind", "url", "fix"),
    [
        (RedisUrl, f"redis+cluster://:{SECRET}@h:1,i:2", "is not supported by this version"),
        (RedisUrl, f"rediss+cluster://:{SECRET}@h:1,i:2", "redis+sentinel://HOST,HOST/NAME"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@h:1,i:2", "does not name the primary"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@/mymaster", "a host is missing"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@h:1,,i:2/mymaster", "a host is missing"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@h:1,i:port/mymaster", "redis://:***@i:port"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@h:1,i:65536/mymaster", "the host or port cannot be read"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@h/mymaster/orders", "must be the number of a database"),
        (RedisUrl, f"redis+sentinel://:/{SECRET}@h/mymaster", "a / in a password is %2F"),
        (RedisUrl, f"redis+sentinel://h/?sentinel_password={SECRET}", "does not name the primary"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@h/m?sentinel_foo=1", "unknown option 'sentinel_foo' (known: sentinel_"),
        (RedisUrl, "redis+sentinel://h/m?sentinel_socket_timeout=1s", "sentinel_socket_timeout is not a number"),
        (RedisUrl, "redis+sentinel://h/m?sentinel_socket_timeout=-1", "sentinel_socket_timeout is not a number"),
        (RedisUrl, f"http://u:{SECRET}@h", "write redis://HOST:6379/0"),
        (RedisUrl, "localhost:6379", "write redis://HOST:6379/0"),
        (RedisUrl, "redis://", "names no host"),
        (RedisUrl, "redis://h/orders", "must be the number of a database"),
        (RedisUrl, f"redis://u:{SECRET}@h:port", "the host or port cannot be read"),
        (RedisUrl, "unix://", "needs the path of the socket"),
        (RedisUrl, f"redis://:{SECRET}@h/0?ssl_cert_reqs=none", "ssl_cert_reqs is for TLS, which is not asked for"),
        (RedisUrl, f"redis+sentinel://:{SECRET}@h/m?ssl_ca_certs=/ca", "write rediss://"),
        (RedisUrl, f"rediss://:{SECRET}@h?sockettimeout=1", "unknown option 'sockettimeout' (known: client_name, "),
        (RedisUrl, "unix:///run/redis.sock?socket_keepalive=yes", "unknown option 'socket_keepalive'"),
        (PostgresUrl, f"mysql://u:{SECRET}@h/db", "write postgresql://USER@HOST:5432/DATABASE"),
        (PostgresUrl, f"host=h password={SECRET}", "write postgresql://USER@HOST:5432/DATABASE"),
        (PostgresUrl, f"postgresql://u:{SECRET}@h:99999/db", "the host or port cannot be read"),
        (EndpointUrl, f"https://u:{SECRET}@minio", "use access_key_id and secret_access_key"),
        (EndpointUrl, "minio:9000", "write https://HOST or http://HOST:PORT"),
        (ColdUrl, "/var/lib/cold", "write s3://BUCKET/PREFIX or file:///DIRECTORY"),
        (ColdUrl, "embedded", "write s3://BUCKET/PREFIX or file:///DIRECTORY"),
        (ColdUrl, "s3://", "is not a bucket name"),
        (ColdUrl, "s3://bucket/a/../b", "has empty, '.' or '..' parts"),
        (ColdUrl, "s3://bucket/a//b", "has empty, '.' or '..' parts"),
        (ColdUrl, f"s3://AKIA:{SECRET}@bucket/a", "settings beside it"),
        (ColdUrl, "file://", "needs a directory"),
        (ColdUrl, "file://~/cold", "needs a directory"),
    ],
)
def test_url_refusal_names_the_fix_and_no_secret(kind: object, url: str, fix: str) -> None:
    """Each wrong URL is refused with what to write instead, without its password."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(url)
    message = caught.value.errors()[0]["msg"]
    assert fix in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h", "redis://h/", "rediss://u:p@h:6379/1", "unix:///run/redis.sock", "redis://[::1]:6379/0"),
        "redis://h/0?socket_timeout=3&retry_on_timeout=true&retry_on_error=x&socket_keepalive=yes&client_name=me",
        "rediss://h?ssl_cert_reqs=none&ssl_ca_path=/etc/ssl&protocol=3",
    ],
)
def test_redis_url_accepts_one_server(url: str) -> None:
    """TCP, TLS, IPv6 and a Unix socket."""
    assert TypeAdapter(RedisUrl).validate_python(url).get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h/mymaster",
        "redis+sentinel://a,b:26380,10.0.0.3:1/mymaster/2",
        "rediss+sentinel://u:p@[::1]:26379,[fe80::1]/mymaster?sentinel_password=p&ssl_ca_certs=/ca.pem",
        "redis+sentinel://:p%2F@w@a,b/mymaster",
    ],
)
def test_redis_url_accepts_sentinels(url: str) -> None:
    """With ports or without, with a database, with TLS and options; what is accepted can be taken apart, too."""
    assert TypeAdapter(RedisUrl).validate_python(url).get_secret_value() == url
    address = parse_redis_url(url)
    assert (address.kind, address.service) == ("sentinel", "mymaster")
    assert address.hosts[0][1] in (26379, 26380)


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("ssl=false", {"ssl": False}),
        ("ssl=True&sentinel_ssl_check_hostname=no", {"ssl": True, "ssl_check_hostname": False}),
        ("ssl=1&sentinel_ssl_check_hostname=1", {"ssl": True, "ssl_check_hostname": True}),
        ("username=7&sentinel_password=0", {"username": "7", "password": "0"}),
        ("protocol=3&sentinel_health_check_interval=0", {"protocol": 3, "health_check_interval": 0}),
        ("socket_timeout=0.25", {"socket_timeout": 0.25}),
        ("socket_timeout=8&sentinel_socket_connect_timeout=9", {"socket_timeout": 8.0, "socket_connect_timeout": 9.0}),
    ],
)
def test_options_of_sentinels_are_typed(query: str, options: dict[str, object]) -> None:
    """As the driver reads its own in a URL: "false" is not true; a timeout that is given goes before ours."""
    url = f"redis+sentinel://h/mymaster?sentinel_{query}"
    assert TypeAdapter(RedisUrl).validate_python(url).get_secret_value() == url
    address = parse_redis_url(url)
    assert address.sentinel_options == options
    used = sentinel_options(address, 1.5)
    assert {name: used[name] for name in options} == options
    assert used["socket_timeout"] == options.get("socket_timeout", 1.5)
    assert not any(name.startswith("sentinel_") for name in address.options)
    for name, value in options.items():
        Redis(**used)  # the driver takes all of them
        assert type(used[name]) is type(value)


def test_file_path_reads_absolute_relative_and_escaped_urls() -> None:
    """The forms that people write for a directory."""
    assert file_path("file:///var/lib/cold") == Path("/var/lib/cold")
    assert file_path("file://localhost/var/cold") == Path("/var/cold")
    assert file_path("file://../cold") == Path("../cold")
    assert file_path("file:///a%20b") == Path("/a b")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://sagaz@localhost/sagaz", False),
        ("postgresql://localhost/sagaz", False),
        ("postgresql://sagaz:s3@localhost/sagaz", True),
        ("redis://:s3@localhost", True),
        ("postgresql://localhost/sagaz?password=s3", True),
    ],
)
def test_has_password_knows_a_user_name_from_a_password(url: str, expected: bool) -> None:
    """Only a password must not stand in the file."""
    assert has_password(url) is expected


@pytest.mark.parametrize(
    ("url", "kept", "timeout", "wants"),
    [
        ("postgresql://h/d", "postgresql://h/d", None, None),
        ("postgresql://a:1,b:2,[::1]:3/d?target_session_attrs=any", None, None, "any"),
        ("postgresql://h/d?connect_timeout=3&application_name=x", "postgresql://h/d?application_name=x", 3.0, None),
        ("postgresql://h/d?connect_timeout=0", "postgresql://h/d", None, None),
        ("postgresql://h/d?fallback_application_name=x", "postgresql://h/d?application_name=x", None, None),
        ("postgresql://h/d?client_encoding=UTF8&keepalives=1&gssencmode=prefer", "postgresql://h/d", None, None),
        ("postgresql://h/d?options=-c%20statement_timeout%3D5s", None, None, None),
        ("postgresql://h/d?search_path=other", None, None, None),
        ("postgresql://u:p%40ss@h/d?password=a%26b", None, None, None),
    ],
)
def test_postgres_address_maps_what_libpq_knows(
    url: str, kept: str | None, timeout: float | None, wants: str | None
) -> None:
    """Several hosts, and every parameter of libpq: to the driver, beside it, or left out where it is so anyway."""
    address = postgres_address(url)
    assert (address.connect_timeout_s, address.wants) == (timeout, wants)
    theirs, ours = urlsplit(kept or url), urlsplit(address.url)
    assert (theirs.netloc, theirs.path, parse_qsl(theirs.query)) == (ours.netloc, ours.path, parse_qsl(ours.query))


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("connect_timeout=soon", "connect_timeout"),
        ("client_encoding=LATIN1", "client_encoding"),
        ("gssencmode=require", "gssencmode"),
        ("keepalives_idle=30", "keepalives_idle"),
        ("hostaddr=127.0.0.1", "hostaddr"),
        ("replication=database", "replication"),
    ],
)
def test_postgres_address_refuses_what_would_mean_nothing(query: str, word: str) -> None:
    """By its name, when the file is read and not when the first save fails; without the password."""
    with pytest.raises(ValidationError, match=word) as caught:
        TypeAdapter(PostgresUrl).validate_python(f"postgresql://u:{SECRET}@h/d?{query}")
    assert all(SECRET not in each["msg"] for each in caught.value.errors())  # as messages show it


def test_database_identity_knows_several_hosts() -> None:
    """Order counts, since the first that fits is asked; the usual port may be left out."""
    one, two, other = (
        database_identity(SecretUrl(f"postgresql://u@{hosts}/d")) for hosts in ("a,b:5432", "A:5432,b", "b,a")
    )
    assert one == two != other


async def test_database_of_an_unchecked_url_is_refused_where_it_was_given() -> None:
    """What no section has checked, such as the URL of sagaz's own storage, is a mistake of who gave it."""
    for url in (f"postgresql://u:{SECRET}@h:port/db", f"mysql://u:{SECRET}@h/db"):
        settings = CatalogSettings.model_construct(url=SecretUrl(url))
        with pytest.raises(ConfigError, match=r"^connection_string: ") as caught:
            await Database(settings, setting="connection_string").open()
        assert SECRET not in f"{caught.value}{caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("postgresql://sagaz:s3@localhost/sagaz", "postgresql://sagaz@localhost/sagaz"),
        ("postgresql://localhost/sagaz?password=s3&sslmode=require", "postgresql://localhost/sagaz?sslmode=require"),
        ("postgresql:///sagaz?host=/run/pg&user=sagaz&password=s3@b", "postgresql://b"),
        ("sagaz:s3@localhost/sagaz", "sagaz@localhost/sagaz"),
        ("postgresql://sagaz:a://s3@localhost/sagaz", "postgresql://sagaz@localhost/sagaz"),
    ],
)
def test_what_init_writes_has_no_password(url: str, written: str) -> None:
    """Also where it is not escaped as it should be."""
    assert without_secrets(url) == written
