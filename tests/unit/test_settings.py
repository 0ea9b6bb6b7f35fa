"""Settings: what they refuse, what wins, what never shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sagaz_tiering.config.load import section_of
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.tiers import ColdSettings
from sagaz_tiering.config.urls import bucket_and_prefix
from sagaz_tiering.config.written import ignored_variables, layered, overrides
from sagaz_tiering.errors import ConfigError
from tools.reference import configuration_reference

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"
SECTIONS = tuple(TieringConfig.model_fields)


def values(**changes: Any) -> dict[str, Any]:
    """A minimal configuration; `a__b=c` sets a.b to c."""
    base: dict[str, Any] = {
        "tiers": {"hot": {"url": "redis://h/0"}, "cold": {"url": "s3://bucket/prefix"}},
        "catalog": {"url": "postgresql://h/db"},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        target = base
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value
    return base


def config(**changes: Any) -> TieringConfig:
    return TieringConfig.model_validate(values(**changes))


def config_in(environ: dict[str, str], **changes: Any) -> TieringConfig:
    """As a file with these values is read where the environment is `environ`."""
    return TieringConfig.model_validate(layered(overrides(environ, SECTIONS), values(**changes)))


def problems(**changes: Any) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        config(**changes)
    errors = [error for error in caught.value.errors() if error["type"] != "default_factory_not_called"]
    return [(error["loc"], error["msg"]) for error in errors]


def test_settings_have_the_documented_defaults() -> None:
    """What is not written has a default; nothing expires or moves by one."""
    built = config()
    assert built.policies == ()
    assert built.tiers.hot.key_prefix == "sagaz"
    assert built.tiers.hot.socket_timeout == timedelta(seconds=2)
    assert built.tiers.cold.pack.target == 32 * 2**20
    assert built.catalog.pool_max == 10
    assert built.schedule.age.every == timedelta(minutes=5)
    assert built.schedule.collect.jitter == timedelta(minutes=36)
    assert built.limits.max_snapshot == 32 * 2**20
    assert built.jobs.collect_min_age == timedelta(hours=24)
    assert (built.daemon.host, built.daemon.port) == ("127.0.0.1", 9464)
    assert built.embedded is None


def test_durable_copy_is_in_the_catalogs_database_unless_null() -> None:
    """Absent and empty mean the catalog's database; null means no durable copy."""
    for changes in ({}, {"tiers__durable": {}}, {"tiers__durable__url": "postgres://h:5432/db"}):
        durable = config(**changes).tiers.durable
        assert durable is not None
        assert durable.url.get_secret_value() in ("postgresql://h/db", "postgres://h:5432/db")
    hot = [{"name": "all", "durability": "hot"}]
    assert config(tiers__durable=None, policies=hot).tiers.durable is None


@pytest.mark.parametrize(
    "url", ["postgresql://h/other", "postgresql://h2/db", "postgresql://u@h/db", "postgresql://h:5433/db"]
)
def test_durable_copy_elsewhere_is_refused(url: str) -> None:
    """Another server, database, port or user than the catalog's cannot share its transactions."""
    ((where, text),) = problems(tiers__durable__url=url)
    assert where == ("tiers", "durable", "url")
    assert "remove it to use the catalog's database" in text


def test_no_durable_copy_needs_hot_policies() -> None:
    """A policy that asks for a durable copy, and the implicit one, are refused without a durable tier."""
    found = problems(tiers__durable=None, policies=[{"name": "p", "match": {"status": "failed"}}])
    assert [where for where, _ in found] == [("policies", 0, "durability"), ("tiers", "durable")]
    assert "write durability: hot" in found[0][1]
    assert "end the policies with one that has match: {} and durability: hot" in found[1][1]


@pytest.mark.parametrize(
    ("changes", "location", "fix"),
    [
        ({"tiers__hot__url": "redis+cluster://h"}, ("tiers", "hot", "url"), "not supported by this version"),
        ({"tiers__hot__compression_level": 0}, ("tiers", "hot", "compression_level"), "greater than or equal to 1"),
        ({"tiers__hot__key_prefix": "a{b}"}, ("tiers", "hot", "key_prefix"), "should match pattern"),
        ({"tiers__cold__pack": {"target": "6GiB"}}, ("tiers", "cold", "pack", "target"), "at most 5GiB"),
        (
            {"tiers__cold__pack": {"max_frame": "33MiB"}},
            ("tiers", "cold", "pack", "max_frame"),
            "larger than pack.target, 32MiB; make it at most that",
        ),
        ({"tiers__cold__kms_key_id": "k"}, ("tiers", "cold", "kms_key_id"), "encryption: sse-kms"),
        ({"tiers__cold__access_key_id": "k"}, ("tiers", "cold", "access_key_id"), "needs secret_access_key"),
        ({"tiers__cold__secret_access_key": "k"}, ("tiers", "cold", "secret_access_key"), "needs access_key_id"),
        ({"tiers__cold__multipart_threshold": "1MiB"}, ("tiers", "cold", "multipart_threshold"), "between 5MiB"),
        ({"catalog__pool_min": 11}, ("catalog", "pool_max"), "10 is less than pool_min, 11"),
        ({"schedule": {"age": {"every": "0s"}}}, ("schedule", "age", "every"), "longer than zero"),
        ({"schedule": {"age": {"jitter": "5m"}}}, ("schedule", "age", "jitter"), "not shorter than every, 5m"),
        ({"jobs": {"collect_min_age": "59m"}}, ("jobs", "collect_min_age"), "shorter than upload_deadline, 1h"),
        ({"daemon": {"port": 70000}}, ("daemon", "port"), "less than or equal to 65535"),
        ({"tiers__hot__url": "embedded"}, ("tiers", "hot", "url"), "add it, or write a URL"),
        ({"catalog__url": "embedded"}, ("catalog", "url"), "add it, or write a URL"),
        ({"tiers__cold__endpoint_url": "embedded"}, ("tiers", "cold", "endpoint_url"), "add it, or write a URL"),
        (
            {"tiers__hot__url": "embedded", "embedded": {"data_dir": "d", "redis": False}},
            ("tiers", "hot", "url"),
            "contradicts embedded.redis: false",
        ),
        ({"embedded": {"data_dir": "~/data"}}, ("embedded", "data_dir"), "no ~"),
        ({"embedded": {"data_dir": ""}}, ("embedded", "data_dir"), "needs a directory"),
        ({"policies": [{"name": "a"}, {"name": "a"}]}, ("policies", 1, "name"), "already the name of policies[0]"),
        (
            {"attributes": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]},
            ("attributes", 1, "name"),
            "'a' is already the name of attributes[0]",
        ),
        ({"attributes": [{"name": "A", "path": "x"}]}, ("attributes", 0, "name"), "should match pattern"),
        ({"attributes": [{"name": "a", "path": "x..y"}]}, ("attributes", 0, "path"), "joined by single dots"),
        (
            {"attributes": [{"name": "a", "path": "x", "hashed": True}]},
            ("attributes", 0, "hashed"),
            "needs attribute_hash_key, a secret of at least 32 bytes",
        ),
        ({"attribute_hash_key": "short"}, ("attribute_hash_key",), "shorter than 32 bytes"),
        (
            {"policies": [{"name": "p", "match": {"attributes": {"tenant": "acme"}}}]},
            ("policies", 0, "match", "attributes", "tenant"),
            "no attribute 'tenant' is defined; add it to the section attributes (there: none)",
        ),
        (
            {
                "attributes": [{"name": "tenant", "path": "x", "hashed": True}],
                "attribute_hash_key": "k" * 32,
                "policies": [{"name": "p", "match": {"attributes": {"tenant": "acme"}}}],
            },
            ("policies", 0, "match", "attributes", "tenant"),
            "is hashed, so no pattern can look at its values",
        ),
        (
            {"policies": [{"name": "p", "match": {"attributes": ["acme"]}}]},
            ("policies", 0, "match", "attributes"),
            "must be a mapping of attributes and patterns",
        ),
    ],
)
def test_settings_refuse_what_cannot_work(changes: dict[str, Any], location: tuple[Any, ...], fix: str) -> None:
    """Each impossible setting is refused where the mistake is, with the fix."""
    assert [(where, fix in text) for where, text in problems(**changes)] == [(location, True)]


def test_settings_do_not_change_after_they_were_checked() -> None:
    """A checked configuration is frozen at every level."""
    built = config()
    with pytest.raises(ValidationError):
        built.catalog = built.catalog  # type: ignore[misc]  # that it is refused is the point
    with pytest.raises(ValidationError):
        built.tiers.hot.key_prefix = "x"  # type: ignore[misc]  # that it is refused is the point


def test_embedded_servers_are_those_that_a_url_asks_for() -> None:
    """Only what some URL calls `embedded` needs a server."""
    built = config(tiers__hot__url="embedded", catalog__url="embedded", embedded={"data_dir": "data"})
    assert built.embedded_servers == {"postgres", "redis"}
    assert config().embedded_servers == set()


def test_relative_paths_start_at_the_given_directory() -> None:
    """The data directory and a file:// cold tier are anchored; absolute ones stay."""
    built = config(tiers__cold__url="file://../cold b", embedded={"data_dir": "data"}).anchored_at(Path("/etc/sagaz"))
    assert built.embedded is not None
    assert built.embedded.data_dir == Path("/etc/sagaz/data")
    assert built.tiers.cold.directory == Path("/etc/cold b")
    assert config(tiers__cold__url="file:///cold").anchored_at(Path("/etc")).tiers.cold.directory == Path("/cold")


def test_cold_tier_tells_bucket_prefix_and_directory() -> None:
    """The parts of an s3:// URL, with and without prefix."""
    cold = ColdSettings(url="s3://acme/a/b/")
    assert (bucket_and_prefix(cold.url), cold.is_directory) == (("acme", "a/b"), False)
    assert bucket_and_prefix(ColdSettings(url="s3://acme").url) == ("acme", "")


# --- secrets ---------------------------------------------------------------------------------------------------


def test_secrets_never_show() -> None:
    """Not in repr, str, a dump or JSON; the real values are there for who asks."""
    built = config(
        tiers__hot__url=f"redis://:{SECRET}@h/0",
        catalog__url=f"postgresql://u:{SECRET}@h/db",
        tiers__cold__access_key_id=f"AKIA{SECRET}",
        tiers__cold__secret_access_key=SECRET,
        attribute_hash_key=SECRET * 5,
    )
    shown = [repr(built), str(built), built.model_dump_json(), str(built.model_dump()), repr(built.tiers.cold)]
    assert [SECRET in text for text in shown] == [False] * len(shown)
    assert built.tiers.hot.url.get_secret_value() == f"redis://:{SECRET}@h/0"
    assert built.tiers.cold.secret_access_key is not None
    assert built.tiers.cold.secret_access_key.get_secret_value() == SECRET
    assert built.attribute_hash_key is not None
    assert built.attribute_hash_key.get_secret_value() == SECRET * 5


def test_secrets_are_not_in_validation_errors() -> None:
    """A wrong configuration is refused without echoing what it holds."""
    with pytest.raises(ValidationError) as caught:
        config(
            tiers__hot__url=f"http://:{SECRET}@h",
            catalog__url=[SECRET],
            tiers__cold__secret_access_key=SECRET,
            tiers__cold__region=SECRET.upper(),
            daemon={"port": SECRET},
        )
    assert SECRET.lower() not in str(caught.value).lower()


# --- environment -----------------------------------------------------------------------------------------------


def test_value_built_in_code_is_the_same_whatever_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only reading a file asks the environment: what code passes in is what it gets, at every level."""
    before = config(tiers__hot__url="redis://test/0", daemon={"port": 1})
    monkeypatch.setenv("SAGAZ_TIERING_TIERS__HOT__URL", "redis://PRODUCTION/0")
    monkeypatch.setenv("SAGAZ_TIERING_DAEMON", '{"port": 2}')
    monkeypatch.setenv("SAGAZ_TIERING_LOG__LEVEL", "not a level")
    assert TieringConfig(**values(tiers__hot__url="redis://test/0", daemon={"port": 1})) == before
    assert config(tiers__hot__url="redis://test/0", daemon={"port": 1}) == before
    assert type(before)(**before.model_dump()) == before


def test_environment_wins_inside_nested_sections() -> None:
    """One variable replaces one value and leaves its neighbours alone; case does not matter."""
    environ = {
        "SAGAZ_TIERING_TIERS__COLD__REGION": "eu-west-1",
        "sagaz_tiering_daemon__port": "9999",
        "SAGAZ_TIERING_TIERS__HOT__COMPRESSION_LEVEL": "null",
        "SAGAZ_TIERING_SCHEDULE__AGE__JITTER": "0s",
        "SAGAZ_TIERING_CATALOG__STATEMENT_CACHE": "false",
        "SAGAZ_TIERING_LOG__LEVEL": "",
    }
    given = {"tiers__cold__region": "us-east-1", "daemon": {"host": "0.0.0.0", "port": 1}, "log": {"level": "debug"}}
    built = config_in(environ, **given)
    assert (built.tiers.cold.region, built.tiers.cold.url) == ("eu-west-1", "s3://bucket/prefix")
    assert (built.daemon.host, built.daemon.port) == ("0.0.0.0", 9999)
    assert built.tiers.hot.compression_level is None
    assert (built.schedule.age.every, built.schedule.age.jitter) == (timedelta(minutes=5), timedelta(0))
    assert built.catalog.statement_cache is False
    assert built.log.level == "debug"


def test_environment_takes_json_for_sections_and_policies() -> None:
    """A section as JSON merges with the file; the policies are replaced as a whole."""
    environ = {"SAGAZ_TIERING_DAEMON": '{"port": 1234}', "SAGAZ_TIERING_POLICIES": '[{"name": "env", "retain": "30d"}]'}
    built = config_in(environ, daemon={"host": "0.0.0.0"}, policies=[{"name": "file"}])
    assert (built.daemon.host, built.daemon.port) == ("0.0.0.0", 1234)
    assert [policy.name for policy in built.policies] == ["env"]


@pytest.mark.parametrize(
    ("environment", "variable", "fix"),
    [
        ({"SAGAZ_TIERING_TIERS": f'{{"hot": "{SECRET}'}, "SAGAZ_TIERING_TIERS", "starts like JSON but cannot be read"),
        ({"SAGAZ_TIERING_POLICIES__0__RETAIN": "7d"}, "SAGAZ_TIERING_POLICIES__0__RETAIN", "replaced as a whole"),
        ({"SAGAZ_TIERING_ATTRIBUTES__0__PATH": "a"}, "SAGAZ_TIERING_ATTRIBUTES__0__PATH", "replaced as a whole"),
        (
            {"SAGAZ_TIERING_LOG": "x", "SAGAZ_TIERING_LOG__LEVEL": "info"},
            "SAGAZ_TIERING_LOG__LEVEL",
            "another variable already sets the value around it",
        ),
        (
            {"SAGAZ_TIERING_LOG__LEVEL": "info", "sagaz_tiering_log__level": "debug"},
            "log__level",
            "another variable sets the same value",
        ),
    ],
)
def test_environment_refusal_names_the_variable_and_no_secret(
    environment: dict[str, str], variable: str, fix: str
) -> None:
    """An unusable variable is named with what to do; its value is not shown, nor in the cause."""
    with pytest.raises(ConfigError) as caught:
        overrides(environment, SECTIONS)
    assert variable.lower() in str(caught.value).lower()
    assert fix in str(caught.value)
    assert SECRET not in f"{caught.value}{caught.value.__cause__!r}"


def test_environment_names_variables_that_set_nothing() -> None:
    """A misspelt variable is pointed out; what Kubernetes and the CLI set is not."""
    environment = {
        "SAGAZ_TIERING_LOG_LEVEL": "info",
        "SAGAZ_TIERING_CATALG__URL": "x",
        "SAGAZ_TIERING_ZZZ": "x",
        "SAGAZ_TIERING_CONFIG": "x",
        "SAGAZ_TIERING_SERVICE_HOST": "x",
        "SAGAZ_TIERING_SERVICE_PORT_HTTP": "x",
        "SAGAZ_TIERING_PORT": "x",
        "SAGAZ_TIERING_PORT_9464_TCP_ADDR": "x",
        "SAGAZ_TIERING_LOG__LEVEL": "x",
        "SAGAZ_OTHER": "x",
    }
    found = dict(ignored_variables(environment, SECTIONS))
    assert set(found) == {"SAGAZ_TIERING_LOG_LEVEL", "SAGAZ_TIERING_CATALG__URL", "SAGAZ_TIERING_ZZZ"}
    assert "did you mean SAGAZ_TIERING_LOG__LEVEL?" in found["SAGAZ_TIERING_LOG_LEVEL"]
    assert "did you mean SAGAZ_TIERING_CATALOG__URL?" in found["SAGAZ_TIERING_CATALG__URL"]
    assert "sections are tiers, catalog" in found["SAGAZ_TIERING_ZZZ"]


# --- reference -------------------------------------------------------------------------------------------------


def test_reference_is_up_to_date() -> None:
    """docs/configuration.md is what the models generate."""
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == configuration_reference(), "run: python tools/reference.py configuration > docs/configuration.md"


def test_reference_explains_every_key() -> None:
    """Every row of the reference has a meaning."""
    rows = [line for line in configuration_reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if row.endswith("| None |") or "|  |\n" in row] == []


# --- every setting ---------------------------------------------------------------------------------------------


def walk(model: type[BaseModel] = TieringConfig, key: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """Each setting: the key of its section, the section's class, its own name."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield key, model, name
        else:
            yield from walk(section, name)


@cache
def parsed() -> dict[str, ast.Module]:
    """Every module of the package, by its path there."""
    package = ROOT / "sagaz_tiering"
    return {path.relative_to(package).as_posix(): ast.parse(path.read_text()) for path in package.rglob("*.py")}


def modules(*without: str) -> dict[str, ast.Module]:
    """The package's modules outside of some rooms."""
    return {name: tree for name, tree in parsed().items() if name.partition("/")[0] not in without}


def test_every_setting_is_read_by_something() -> None:
    """A setting that does nothing would be a lie: some module that has its section to do with reads each by its name.

    `match` of a policy and the times of a job are read by the sections' own methods.
    """
    read, named = dict[str, set[str]](), dict[str, set[str]]()
    trees = modules("config") | {name: parsed()[name] for name in ("config/policy.py", "config/schedule.py")}
    for module, tree in trees.items():
        nodes = list(ast.walk(tree))
        read[module] = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
        named[module] = {n.id for n in nodes if isinstance(n, ast.Name)}
    unread = [
        f"{key}.{name}"
        for key, model, name in walk()
        if not any(
            name in read[module] and (key in read[module] or {each.__name__ for each in model.__mro__} & named[module])
            for module in trees
        )
    ]
    assert unread == []


def test_default_of_a_setting_stands_in_its_section_alone() -> None:
    """What drivers and jobs take has no default of its own for what a section says.

    The arguments of the standalone storages are no settings.
    """
    settings = {name for _, _, name in walk()}
    again = [
        f"{module}: {node.target.id}"
        for module, tree in modules("config").items()
        for cls in ast.walk(tree)
        if isinstance(cls, ast.ClassDef) and cls.name.endswith(("Options", "Settings"))
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in settings
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None)
    ]
    assert again == ["objects/s3/options.py: max_connections"]  # to the bucket: the setting is of Redis


def test_default_of_a_setting_is_written_in_its_field() -> None:
    """Who reads a section sees each default: none is a constant somewhere above, but for `ANY`, which is a word."""
    aside = []
    for module in sorted({f"{model.__module__.partition('.')[2].replace('.', '/')}.py" for _, model, _ in walk()}):
        tree = parsed()[module]
        constants = {
            each.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for each in node.targets
            if isinstance(each, ast.Name) and each.id != "ANY"
        }
        aside += [
            f"{module}: {ast.unparse(node)}"
            for cls in tree.body
            if isinstance(cls, ast.ClassDef)
            for node in cls.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.AST)
            if constants & {each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)}
        ]
    assert aside == []


def test_job_of_which_only_jitter_is_written_starts_as_often_as_by_default() -> None:
    """The times of a job can be written in part, in a file and in code; what is wrong is located all the same."""
    built = config(schedule={"scrub": {"jitter": "1h"}, "age": {"every": "2m"}})
    assert (built.schedule.scrub.every, built.schedule.scrub.jitter) == (timedelta(days=1), timedelta(hours=1))
    assert (built.schedule.age.every, built.schedule.age.jitter) == (timedelta(minutes=2), timedelta(seconds=12))
    assert built.schedule.train == config().schedule.train
    assert [where for where, _ in problems(schedule={"age": {"jiter": "1m"}})] == [("schedule", "age", "jiter")]
    assert [where for where, _ in problems(schedule={"agee": {"jitter": "1m"}})] == [("schedule", "agee")]
