"""A storage from one line of text: what is understood, what is refused, and that secrets stay hidden."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.snapshots import make

import sagaz_tiering
from sagaz_tiering.app import storage_url
from sagaz_tiering.app.storage_url import open_source, open_storage, parse_address
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.source import ExportSource
from sagaz_tiering.sagaz_engine import imports as from_sagaz

REDIS = "redis://user:geheim@localhost:6379/0"
POSTGRES = "postgresql://user:geheim@localhost/sagaz"


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("memory://", {}),
        ("file:///var/data?enable_compression=true&pretty_json=no", {"enable_compression": True, "pretty_json": False}),
        (f"{REDIS}?key_prefix=a%20b:&default_ttl=60", {"redis_url": REDIS, "key_prefix": "a b:", "default_ttl": 60}),
        (f"{REDIS}?ssl_cert_reqs=none&key_prefix=a:", {"redis_url": f"{REDIS}?ssl_cert_reqs=none", "key_prefix": "a:"}),
        (f"{REDIS}?socket_timeout=2.5", {"socket_timeout": timedelta(seconds=2.5)}),
        (f"{REDIS}?socket_timeout=500ms", {"socket_timeout": timedelta(milliseconds=500)}),
        ("rediss://h/1", {"redis_url": "rediss://h/1"}),
        (
            "redis+cluster://a:1,b:2?compression_level=9",
            {"redis_url": "redis+cluster://a:1,b:2", "compression_level": 9},
        ),
        ("redis+sentinel://a,b/primary", {"redis_url": "redis+sentinel://a,b/primary"}),
        (f"{POSTGRES}?sslmode=require&pool_max_size=3", {"connection_string": f"{POSTGRES}?sslmode=require"}),
        (f"{POSTGRES}?pool_min_size=1&pool_max_size=3", {"pool_min_size": 1, "pool_max_size": 3}),
        ("s3://bucket", {"bucket_name": "bucket"}),
        ("s3://bucket/production/snapshots/", {"bucket_name": "bucket", "prefix": "production/snapshots/"}),
        ("s3://bucket?storage_class=GLACIER&region_name=eu-west-1", {"storage_class": "GLACIER"}),
        ("s3://bucket?access_key_id=A&secret_access_key=B", {"access_key_id": "A", "secret_access_key": "B"}),
        ("sagaz+s3://bucket?prefix=odd", {"bucket_name": "bucket", "prefix": "odd"}),
        ("sagaz+redis://h?key_prefix=s:", {"redis_url": "redis://h", "key_prefix": "s:"}),
        ("sagaz+file:///var/data", {"base_path": "/var/data"}),
        ("tiered:/etc/tiering.yaml", {"config": "/etc/tiering.yaml"}),
        ("/etc/tiering.yaml", {"config": "/etc/tiering.yaml"}),
    ],
)
def test_address_takes_options_out_of_the_url(url: str, arguments: dict[str, Any]) -> None:
    """Our options become arguments, typed; what is the driver's stays where it is."""
    found = parse_address(url).arguments
    assert {name: found.get(name) for name in arguments} == arguments


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "not the place"),
        ("ftp://host/x", "not the place"),
        ("sagaz+memory://", "not the place"),
        ("sagaz+tiered:x.yaml", "not the place"),
        ("memory://?x=1", "unknown option 'x'"),
        ("file://", "needs a directory"),
        ("file:///x?pretty_json=maybe", "pretty_json must be true or false"),
        ("redis://h?default_ttl=soon", "default_ttl must be a whole number"),
        ("redis://h?default_ttl=1&default_ttl=2", "default_ttl is given twice"),
        ("redis://h?colour=red", "unknown option 'colour'"),
        ("postgresql://h/d?pool_maxsize=1", "unknown option 'pool_maxsize'"),
        ("s3://", "not a bucket name"),
        ("s3://bucket?region=x", "unknown option 'region'"),
        ("s3://bucket/../x", "'..' parts"),
    ],
)
def test_address_refuses_what_it_does_not_know(url: str, said: str) -> None:
    """A typo is an error that names what is known, not an option that does nothing."""
    with pytest.raises(ConfigError, match=said) as caught:
        parse_address(url)
    if "unknown option" in said:
        assert "options of" in caught.value.hint


def test_address_names_the_option_that_was_meant() -> None:
    """Also for PostgreSQL, whose own parameters nobody can list."""
    with pytest.raises(ConfigError) as caught:
        parse_address("postgresql://h/d?pool_maxsize=1")
    assert "did you mean pool_max_size?" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "redis://:geheim@h?key_prefix=a:&ssl_password=geheim",
        "postgresql://u:geheim@h/d?password=geheim",
        "s3://bucket?secret_access_key=geheim&access_key_id=geheim",
        "sagaz+redis://:geheim@h",
        "redis://:geheim@h?default_ttl=soon",
        "s3://bucket?secret_access_key=geheim&colour=red",
        "ftp://u:geheim@h",
    ],
)
def test_address_never_shows_a_secret(url: str) -> None:
    """Neither in what it shows, nor in its repr, nor in an error and its causes."""
    try:
        address = parse_address(url)
        said = f"{address.shown} {address!r}"
    except ConfigError as exc:
        said = f"{exc} {exc.hint} {exc.__cause__}"
    assert "geheim" not in said


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://h?key_prefix=a:", "redis://h?key_prefix=b:"),
        ("redis://h/0", "redis://h/1"),
        ("s3://bucket/a", "s3://bucket/b"),
        ("s3://bucket?endpoint_url=http://a", "s3://bucket?endpoint_url=http://b"),
        ("redis://h", "sagaz+redis://h"),
        ("file:///x", "export:///x"),
        ("export:///x", "export:///x?key=y"),
    ],
)
def test_address_shows_different_places_differently(one: str, other: str) -> None:
    """What is shown tells which transfer a journal is of."""
    assert parse_address(one).shown != parse_address(other).shown


def test_address_shows_the_same_place_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its options are ordered, and from wherever it is named."""
    monkeypatch.chdir(tmp_path)
    one, other = "redis://h?key_prefix=a:&default_ttl=1", "redis://h?default_ttl=1&key_prefix=a:"
    assert parse_address(one).shown == parse_address(other).shown
    assert parse_address("file://data").shown == parse_address(f"file://{tmp_path}/data").shown
    assert parse_address("x.yaml").shown == parse_address(f"tiered:{tmp_path}/x.yaml").shown


@pytest.mark.parametrize(
    ("home", "kinds"), [(sagaz_tiering, storage_url._STORAGES), (from_sagaz, storage_url._FOREIGN)]
)
def test_options_are_those_of_the_constructors(home: Any, kinds: dict[str, Any]) -> None:
    """Each option of a URL is a parameter of the storage that it is for, and each parameter a URL can give is one."""
    for family, kind in kinds.items():
        if family == "tiered":
            continue
        made_by = ExportSource if family == "export" else getattr(home, kind.name)
        taken = set(inspect.signature(made_by).parameters)
        given = set(kind.options) | {kind.place} - {""}
        assert given <= taken, family
        assert taken - given <= {
            "clock",
            "client",
            "prefix",
            "redis_kwargs",
            "pool_kwargs",
            "s3_kwargs",
            "on_unsupported",
        }, family


async def test_open_storage_opens_what_the_url_names(tmp_path: Path) -> None:
    """With its options, and again over the same data."""
    url = f"file://{tmp_path}/data?enable_compression=true"
    async with open_storage(url) as storage:
        await storage.save_snapshot(make(0))
        assert storage.get_storage_info()["compression_enabled"] is True
    async with open_source(url) as source:
        assert [snapshot async for snapshot in source.iter_snapshots()] == [make(0)]


async def test_open_storage_refuses_what_can_only_be_read() -> None:
    """sagaz's own form is a source."""
    with pytest.raises(ConfigError, match="can only be read"):
        async with open_storage("sagaz+redis://localhost"):
            pass
    async with open_source("sagaz+redis://localhost") as source:
        assert type(source).__name__ == "SagazRedisSource"


async def test_open_storage_says_which_configuration_is_missing(tmp_path: Path) -> None:
    """A path that is none."""
    with pytest.raises(ConfigError, match="nowhere"):
        async with open_storage(tmp_path / "nowhere.yaml"):
            pass
