"""The configuration that `init` writes: valid whatever a machine has, and what a machine has is found out."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sagaz_tiering.config.load import load_with_warnings
from sagaz_tiering.costs.prices import minimum_durations
from sagaz_tiering.doctor import setup
from sagaz_tiering.doctor.setup import Machine, configuration, look, password_advice, preparations

NOWHERE = ("127.0.0.1", 1)
PREPARE = (
    "createuser --pwprompt sagaz; createdb --owner=sagaz --encoding=UTF8 sagaz"
    "    # once, as PostgreSQL's administrator, unless they are there"
)


def machine(redis: bool, postgresql: bool, embedded: bool) -> Machine:
    return Machine(redis=redis, postgresql=postgresql, embedded=embedded, aws=None, region="eu-west-1")


@pytest.mark.parametrize("bucket", [None, "acme", "acme/production"])
def test_configuration_is_valid_on_every_machine(bucket: str | None, tmp_path: Path) -> None:
    """Without a warning; what answers is used, what does not is started where it can be. A server of one's own needs
    the user and the database that it names."""
    path = tmp_path / "tiering.yaml"
    for redis, postgresql, embedded in product((False, True), repeat=3):
        path.write_text(configuration(machine(redis, postgresql, embedded), bucket, "data"), encoding="utf-8")
        config, warnings = load_with_warnings(path, minimum_durations, {})
        assert warnings == []
        missing = {name for name, answers in (("redis", redis), ("postgres", postgresql)) if not answers}
        assert config.embedded_servers == (missing if embedded else set())
        assert (config.embedded is None) == (not config.embedded_servers)
        assert preparations(machine(redis, postgresql, embedded)) == (
            [] if config.catalog.url.is_embedded else [PREPARE]
        )
        expected = f"s3://acme/{'production' if bucket and '/' in bucket else 'sagaz'}"
        assert str(config.tiers.cold.url) == (expected if bucket else (tmp_path / "data" / "cold").as_uri())
        if not config.catalog.url.is_embedded:
            assert config.catalog.url.get_secret_value() == "postgresql://sagaz@localhost/sagaz"
        assert config.tiers.cold.region == ("eu-west-1" if bucket else None)


async def test_servers_are_found_by_their_answers(
    redis_url: str, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis, also where it wants a password first, and PostgreSQL; each by its own word, not by an open port."""
    redis, postgresql = urlsplit(redis_url), urlsplit(empty_database)
    at_redis, at_postgresql = ((url.hostname or "", url.port or 0) for url in (redis, postgresql))
    for addresses, found in (
        ((at_redis, at_postgresql), (True, True)),
        ((at_postgresql, at_redis), (False, False)),
        ((NOWHERE, NOWHERE), (False, False)),
    ):
        for name, address in zip(("_REDIS", "_POSTGRESQL"), addresses, strict=True):
            monkeypatch.setattr(setup, name, address)
        monkeypatch.setattr(setup, "_WITHIN_S", 60.0 if any(found) else 1.0)
        seen = await look({}, tmp_path)
        assert (seen.redis, seen.postgresql) == found
        assert (seen.embedded, seen.aws, seen.region) == (True, None, None)


async def test_urls_of_the_environment_are_written_without_their_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of servers from wheels and of those at usual ports; a file that names them starts nothing."""
    monkeypatch.setattr(setup, "_REDIS", NOWHERE)
    monkeypatch.setattr(setup, "_POSTGRESQL", NOWHERE)
    environ = {
        "SAGAZ_TIERING_CATALOG__URL": "postgresql://shop:s3cret@db.example:5433/orders?sslmode=require",
        "SAGAZ_TIERING_TIERS__HOT__URL": "redis://:s3cret@cache.example:6380/2",
        "SAGAZ_TIERING_TIERS__COLD__URL": "s3://acme/shop",
    }
    seen = await look(environ, tmp_path)
    told = list(seen.told())
    catalog = "postgresql://shop@db.example:5433/orders?sslmode=require"
    assert f"PostgreSQL: {catalog}, from SAGAZ_TIERING_CATALOG__URL" in told
    assert "Redis: redis://cache.example:6380/2, from SAGAZ_TIERING_TIERS__HOT__URL" in told
    path = tmp_path / "tiering.yaml"
    path.write_text(configuration(seen, None, "data"), encoding="utf-8")
    assert "s3cret" not in path.read_text(encoding="utf-8") + "".join(told) + repr(seen)
    config, warnings = load_with_warnings(path, minimum_durations, {})
    assert (config.catalog.url.get_secret_value(), config.embedded, warnings) == (catalog, None, [])
    assert config.tiers.hot.url.get_secret_value() == "redis://cache.example:6380/2"
    assert config.tiers.cold.url == "s3://acme/shop"
    (first,) = preparations(seen)
    assert first.startswith("createuser --pwprompt shop; createdb --owner=shop --encoding=UTF8 orders ")
    assert password_advice(seen) is None
    without = await look({"SAGAZ_TIERING_CATALOG__URL": catalog}, tmp_path)
    assert "SAGAZ_TIERING_CATALOG__URL=postgresql://shop:PASSWORD@db.example" in (password_advice(without) or "")
    config, warnings = load_with_warnings(_written(path, without), minimum_durations, {})
    assert (config.embedded_servers, warnings) == ({"redis"}, [])


async def test_variables_over_a_file_that_says_embedded_are_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is right without them."""
    monkeypatch.setattr(setup, "_REDIS", NOWHERE)
    monkeypatch.setattr(setup, "_POSTGRESQL", NOWHERE)
    path = _written(tmp_path / "tiering.yaml", await look({}, tmp_path))
    environ = {
        "SAGAZ_TIERING_CATALOG__URL": "postgresql://sagaz@db/sagaz",
        "SAGAZ_TIERING_TIERS__HOT__URL": "redis://cache",
    }
    config, warnings = load_with_warnings(path, minimum_durations, environ)
    assert (config.embedded_servers, warnings) == (set(), [])


def _written(path: Path, seen: Machine) -> Path:
    path.write_text(configuration(seen, None, "data"), encoding="utf-8")
    return path


async def test_credentials_are_found_and_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment or in the file of the AWS tools; only where they are is told."""
    monkeypatch.setattr(setup, "_REDIS", NOWHERE)
    monkeypatch.setattr(setup, "_POSTGRESQL", NOWHERE)
    seen = await look({"AWS_ACCESS_KEY_ID": "AKIASECRET", "AWS_REGION": "eu-central-1"}, tmp_path)
    assert (seen.aws, seen.region) == ("AWS_ACCESS_KEY_ID", "eu-central-1")
    assert "AKIASECRET" not in "".join(seen.told())
    file = tmp_path / ".aws" / "credentials"
    file.parent.mkdir()
    file.write_text("[default]\n")
    assert (await look({}, tmp_path)).aws == str(file)
