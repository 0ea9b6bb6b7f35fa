"""The configuration file: every refusal names its line and the fix, and never a secret."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import pytest

from sagaz_tiering.config import written
from sagaz_tiering.config.load import config_of, load_config, load_with_warnings
from sagaz_tiering.costs.prices import minimum_durations
from sagaz_tiering.errors import ConfigError, PolicyError
from sagaz_tiering.storage_class import StorageClass

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"
HEAD = """\
tiers:
  hot: {url: redis://localhost}
  cold: {url: s3://bucket/prefix}
catalog: {url: postgresql://localhost/db}
"""
"""Four lines; what a test appends starts at line 5."""
CATCH_ALL = "policies: [{name: all, retain: forever}]\n"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("SAGAZ_TIERING_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refusal(text: str | bytes) -> ConfigError:
    Path("tiering.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config("tiering.yaml")
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown + caught.value.hint
    return caught.value


def warnings(text: str) -> list[str]:
    Path("tiering.yaml").write_text(text, encoding="utf-8")
    return [str(warning) for warning in load_with_warnings("tiering.yaml", minimum_durations)[1]]


# --- the examples that are shipped -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiering.yaml", "embedded.yaml"])
def test_shipped_example_loads_without_a_warning(name: str) -> None:
    """What a stranger starts from is beyond doubt, and its last policy matches everything."""
    config, found = load_with_warnings(ROOT / "config" / name, minimum_durations)
    assert [str(warning) for warning in found] == []
    assert [policy.name for policy in config.policies] == ["payments", "default"]


def test_embedded_example_keeps_everything_under_one_directory() -> None:
    """The servers' data and the packs share a directory beside the configuration's."""
    config = load_config(ROOT / "config" / "embedded.yaml")
    assert config.embedded is not None
    assert config.embedded.data_dir == ROOT / ".sagaz-tiering"
    assert config.tiers.cold.directory == ROOT / ".sagaz-tiering" / "cold"
    assert config.embedded_servers == {"postgres", "redis"}


# --- what is wrong in it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policys: []\n", "tiering.yaml:5: policys: unknown key; did you mean 'policies'?"),
        ("_env_file: x\n", "tiering.yaml:5: _env_file: unknown key"),
        ("daemon:\n  prot: 1\n", "tiering.yaml:6: daemon.prot: unknown key; did you mean 'port'?"),
        (
            "daemon:\n  region: x\n",
            "tiering.yaml:6: daemon.region: unknown key; it is a key of tiers.cold; the keys here are host, port, "
            "shutdown_grace",
        ),
        ("daemon:\n\n  port: many\n", "tiering.yaml:7: daemon.port: must be a whole number"),
        ("daemon: {port: 70000}\n", "tiering.yaml:5: daemon.port: must be at most 65535"),
        ("jobs: {batch_sagas: 0}\n", "tiering.yaml:5: jobs.batch_sagas: must be at least 1"),
        ("catalog2: x\n", "tiering.yaml:5: catalog2: unknown key; did you mean 'catalog'?"),
        ("daemon:\n", "tiering.yaml:5: daemon: is empty; it must be a mapping"),
        ("daemon: 9464\n", "tiering.yaml:5: daemon: must be a mapping"),
        ("policies: {name: x}\n", "tiering.yaml:5: policies: must be a list (lines that start with -)"),
        ("log:\n  level: inof\n", "tiering.yaml:6: log.level: 'inof' is not one of debug, info, warning, error; did"),
        ("limits: {on_unsupported: txt}\n", "on_unsupported: 'txt' is not one of refuse, text; did you mean text?"),
        ("log: {format: xml}\n", "tiering.yaml:5: log.format: 'xml' is not one of auto, json, console"),
        ("embedded: {redis: maybe}\n", "embedded.redis: must be true or false"),
        ("embedded: {redis: true}\n", "embedded.data_dir: is required but missing; add it, or set "
                                      "SAGAZ_TIERING_EMBEDDED__DATA_DIR"),
        ("schedule:\n  age:\n    every: 300\n", "tiering.yaml:7: schedule.age.every: '300' has no unit; write one"),
        ("limits: {max_snapshot: 32MB}\n", "tiering.yaml:5: limits.max_snapshot: '32MB' is not a size; write"),
    ],
)  # fmt: skip
def test_settings_problem_names_line_and_fix(text: str, message: str) -> None:
    """Typos, wrong types, units and words, each with its line and what would be right."""
    error = refusal(HEAD + text)
    assert message in str(error)
    assert "nothing was started" in error.hint or "unknown key" in str(error)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["retian: 7d"], "tiering.yaml:7: policies[0].retian: unknown key; did you mean 'retain'?"),
        (["retain: 7 days"], "tiering.yaml:7: policies[0].retain: '7 days' is not a duration; write whole numbers"),
        (["match:"], "tiering.yaml:7: policies[0].match: is empty; it must be a mapping"),
        (["match: {saga: x}"], "tiering.yaml:7: policies[0].match.saga: unknown key; did you mean 'saga_name'?"),
        (["match:", "  status:"], "tiering.yaml:8: policies[0].match.status: is empty; leave the key out to match"),
        (["durability: warm"], "tiering.yaml:7: policies[0].durability: 'warm' is not one of hot, durable"),
        (["move:", "- {to: glacier, after: 7d}"], "tiering.yaml:8: policies[0].move[0].to: 'glacier' is not one of "),
        (["move:", "- {to: glacier, after: 7d}"], "did you mean GLACIER?"),
        (
            ["move:", "- {to: STANDARD, after: 7d}"],
            "tiering.yaml:8: policies[0].move[0].to: packs start at STANDARD_IA",
        ),
        (
            ["move:", "- {to: GLACIER, after: 7d}", "- {to: STANDARD_IA, after: 9d}"],
            "tiering.yaml:9: policies[0].move[1].to: STANDARD_IA is not colder than GLACIER",
        ),
        (
            ["move:", "- {to: STANDARD_IA, after: 9d}", "- to: GLACIER", "  after: 7d"],
            "tiering.yaml:10: policies[0].move[1].after: 7d is not later than the move before it",
        ),
        (
            ["move:", "- {to: STANDARD_IA, after: 9d}", "retain: 8d"],
            "tiering.yaml:9: policies[0].retain: 8d would delete the snapshots before they move to STANDARD_IA",
        ),
        (
            ["match:", "  attributes:", "    tenant: acme"],
            "tiering.yaml:9: policies[0].match.attributes.tenant: no attribute 'tenant' is defined; add it to the",
        ),
        (["match: {attributes: {tenant: }}"], "policies[0].match.attributes.tenant: is empty; leave the key out"),
        (["linger: -1h"], "tiering.yaml:7: policies[0].linger: a duration cannot be negative"),
    ],
)
def test_policy_problem_names_line_and_fix(lines: list[str], message: str) -> None:
    """Each impossible policy, with its line; all of them are PolicyErrors."""
    body = "".join(f"    {line}\n" for line in lines)
    error = refusal(HEAD + "policies:\n  - name: payments\n" + body)
    assert message in str(error)
    assert isinstance(error, PolicyError)


def test_policy_names_that_clash_name_the_line_of_the_second() -> None:
    """Two policies of one name: the line of the later one."""
    error = refusal(HEAD + "policies:\n  - name: a\n  - match: {}\n    name: a\n")
    assert "tiering.yaml:8: policies[1].name: 'a' is already the name of policies[0]" in str(error)


def test_every_problem_is_listed_in_the_order_of_the_file() -> None:
    """One start shows all mistakes; a mistake outside the policies makes it a plain ConfigError."""
    error = refusal(HEAD.replace("hot: {url", "hot: {ulr") + "policies: [{name: a, retain: x}]\nlog: {level: x}\n")
    lines = str(error).splitlines()
    assert lines[0] == "4 problems:"
    assert [line.split(":")[1] for line in lines[1:]] == ["2", "2", "5", "6"]
    assert not isinstance(error, PolicyError)


def test_missing_section_names_the_variable_that_could_set_it() -> None:
    """What is required can also come from the environment."""
    error = refusal("tiers: {hot: {url: redis://h}, cold: {url: s3://bucket}}\n")
    assert "tiering.yaml:1: catalog: is required but missing; add it, or set SAGAZ_TIERING_CATALOG" in str(error)


def test_wrong_catalog_url_is_told_once() -> None:
    """Not again as the durable tier's, which is filled in; one that was written is told by its own line."""
    wrong = HEAD.replace("postgresql://localhost/db", "mysql://localhost/db") + CATCH_ALL
    error = refusal(wrong)
    assert str(error).startswith("tiering.yaml:4: catalog.url: ")
    assert "durable" not in str(error)
    both = str(refusal(wrong.replace("tiers:\n", "tiers:\n  durable: {url: mysql://localhost/db}\n")))
    assert "2 problems:" in both
    assert "tiering.yaml:2: tiers.durable.url: " in both


# --- the file itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "tiering.yaml: is empty"),
        (b"# only a comment\n", "tiering.yaml: is empty"),
        (b"- a\n- b\n", "tiering.yaml:1: must be a mapping"),
        (b"just text\n", "tiering.yaml:1: must be a mapping"),
        (b"a: 1\nb: [\n", "tiering.yaml:3: not valid YAML"),
        (b"a: {b: [1, 2]\nc: 3\n", "tiering.yaml:2: not valid YAML: the { of line 1 is not closed, or a comma is miss"),
        (b"a: 1\nb: [2\nc: {d: 3}\n", "tiering.yaml:3: not valid YAML: the [ of line 2 is not closed, or a comma is"),
        (b"a: 1\n\tb: 2\n", "tiering.yaml:2: not valid YAML"),
        (b"a: 1\nb: \x00\n", "tiering.yaml:2: not valid YAML: it holds a control character"),
        (b"a: 1\nb: \xff\xfe\n", "tiering.yaml:2: not UTF-8"),
        ("tiers: ä\n".encode("utf-16"), "not UTF-8"),
        (b"a: 1\n---\nb: 2\n", "tiering.yaml:2: not valid YAML: but found another document"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: " + b"x" * 2**20, "larger than 1048576 bytes"),
        (b"a: &x [*x]\n", "tiering.yaml:1: this value contains itself"),
        (b"? [a]\n: b\n", "tiering.yaml:1: a key must be text"),
        (b"~: b\n", "tiering.yaml:1: a key must be text"),
        (b"a: 1\n<<: 5\n", "tiering.yaml:2: << takes a mapping"),
    ],
)
def test_file_that_is_no_configuration_is_refused(text: bytes, message: str) -> None:
    """Empty, not a mapping, not YAML, not text: each is said, with the line where there is one."""
    assert message in str(refusal(text))


def test_file_that_cannot_be_read_is_refused() -> None:
    """A missing file and a directory, with what to do."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file") as missing:
        load_config("nowhere.yaml")
    assert "SAGAZ_TIERING_CONFIG" in missing.value.hint
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(".")


def test_duplicate_key_names_both_lines() -> None:
    """The second of two equal keys is refused and names the first, at any depth."""
    assert "tiering.yaml:5: tiers is already set at line 1" in str(refusal(HEAD + "tiers: {}\n"))
    error = refusal("tiers:\n  hot:\n    url: redis://h\n    url: redis://i\n")
    assert "tiering.yaml:4: url is already set at line 3; keep one" in str(error)


@pytest.mark.parametrize("value", ["!!python/object:os.system x", "!secret x", "!!timestamp 2026-01-01", "!!set {a}"])
def test_tags_are_refused(value: str) -> None:
    """A tag is never obeyed."""
    assert "tiering.yaml:5: tags are not allowed" in str(refusal(f"{HEAD}log: {value}\n"))


def test_anchors_aliases_and_merge_keys_work() -> None:
    """Shared values, with the line of where they were written."""
    shared = "policies:\n  - &base\n    name: a\n    move: [{to: GLACIER, after: 7d}]\n  - <<: *base\n    name: b\n"
    Path("tiering.yaml").write_text(HEAD + shared, encoding="utf-8")
    config = load_config("tiering.yaml")
    assert [policy.name for policy in config.policies] == ["a", "b"]
    assert config.policies[1].move[0].to is StorageClass.GLACIER
    error = refusal(HEAD + shared.replace("7d", "7"))
    assert [line.split(":")[1] for line in str(error).splitlines()[1:]] == ["8", "8"]


LAUGHS = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else 'lol'}]\n" for i in range(40))
CHAIN = "".join(f"x{i}: &x{i} {{<<: {f'*x{i - 1}' if i else '{}'}, k{i}: v}}\n" for i in range(2000))
TWICE = "".join(f"x{i}: &x{i} {{<<: [{f'*x{i - 1}, *x{i - 1}' if i else '{}'}], k{i}: v}}\n" for i in range(60))
WIDE = "x: &x {" + ", ".join(f"k{i}: v" for i in range(2000)) + "}\ny:\n  <<: [" + ", ".join(["*x"] * 2000) + "]\n"


@pytest.mark.parametrize(
    ("bomb", "line"), [(LAUGHS, 6), (CHAIN, 258), (TWICE, 14), (WIDE, 3)], ids=["laughs", "chain", "twice", "wide"]
)
def test_aliases_and_merges_do_not_explode(bomb: str, line: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small text cannot become a huge one: it is refused by its line, before more than the limit was copied."""
    copied, merged = 0, written._Builder._merged

    def counted(self: Any, *args: Any) -> Any:
        nonlocal copied
        bases = merged(self, *args)
        copied += sum(len(base.value) for base in bases)
        return bases

    monkeypatch.setattr(written._Builder, "_merged", counted)
    with pytest.raises(ConfigError) as caught:
        config_of(bomb, "pasted")
    assert f"pasted:{line}: with all that aliases (*) and merge keys (<<) repeat, there are more than 100,000" in str(
        caught.value
    )
    assert copied < written.MOST_VALUES


def test_merge_keys_take_the_first_that_says_it() -> None:
    """What is written beside them wins, then the first of a list, then the rest; each with the line that counts."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n"
    value, place = written.parse_yaml(text, "pasted")
    assert value["c"] == {"x": "1", "y": "1", "z": "3"}
    assert [place.line_of(("c", key)) for key in "xyz"] == [1, 1, 4]


def test_plain_scalars_are_the_text_that_was_written() -> None:
    """`no`, `on`, numbers and times are names like any other, in a pattern."""
    Path("tiering.yaml").write_text(
        HEAD + "policies: [{name: 010, match: {status: no, saga_name: [1:30, 2026-01-01, 1e3]}}]\n", encoding="utf-8"
    )
    policy = load_config("tiering.yaml").policies[0]
    assert (policy.name, policy.match.status) == ("010", ("no",))
    assert policy.match.saga_name == ("1:30", "2026-01-01", "1e3")


def test_byte_order_mark_is_no_problem() -> None:
    """Some editors write one."""
    Path("tiering.yaml").write_bytes(b"\xef\xbb\xbf" + (HEAD + CATCH_ALL).encode())
    assert load_config("tiering.yaml").policies[0].name == "all"


# --- environment and secrets -----------------------------------------------------------------------------------


def test_environment_is_the_one_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives an environment, an empty one too, gets that one: the process's is not asked."""
    monkeypatch.setenv("SAGAZ_TIERING_DAEMON__PORT", "1")
    monkeypatch.setenv("SAGAZ_TIERING_LOG_LEVEL", "debug")
    Path("tiering.yaml").write_text(HEAD + CATCH_ALL, encoding="utf-8")
    assert load_config("tiering.yaml").daemon.port == 1
    assert load_config("tiering.yaml", {}).daemon.port == 9464
    assert load_with_warnings("tiering.yaml", minimum_durations, {"SAGAZ_TIERING_DAEMON__PORT": "2"})[1] == []


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable replaces one value."""
    monkeypatch.setenv("SAGAZ_TIERING_TIERS__COLD__URL", "file://cold")
    Path("tiering.yaml").write_text(HEAD + CATCH_ALL, encoding="utf-8")
    assert load_config("tiering.yaml").tiers.cold.directory == Path.cwd() / "cold"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SAGAZ_TIERING_TIERS__HOT__URL", f"http://:{SECRET}@h", "tiers.hot.url: 'http://:***@h' is not a Redis URL"),
        ("SAGAZ_TIERING_DAEMON__PORT", SECRET, "daemon.port: must be a whole number"),
        ("SAGAZ_TIERING_TIERS__HTO__URL", SECRET, "tiers.hto: unknown key; did you mean 'hot'?"),
        ("SAGAZ_TIERING_DAEMON", '{"prot": 1}', "daemon.prot: unknown key; did you mean 'port'?"),
        ("SAGAZ_TIERING_POLICIES", '[{"name": "a", "retain": 7}]', "policies[0].retain: 7 has no unit"),
    ],
)
def test_problem_from_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """A wrong variable is named instead of a line of the file, without its value where that may be secret."""
    monkeypatch.setenv(name, value)
    assert f"environment variable {name}: {message}" in str(refusal(HEAD + CATCH_ALL))


def test_problem_in_the_file_beside_a_variable_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section that comes partly from the environment still has its own lines."""
    monkeypatch.setenv("SAGAZ_TIERING_DAEMON", '{"host": "::1"}')
    assert "tiering.yaml:5: daemon.port: must be" in str(refusal(HEAD + "daemon: {port: x}\n"))


@pytest.mark.parametrize(
    "text",
    [
        f"tiers: {{hot: {{url: 'http://:{SECRET}@h'}}}}\n",
        f"tiers: {{hot: {{redis://:{SECRET}@h}}}}\n",
        f"tiers: {{hot: {{'redis://:{SECRET}@h': 1, 'redis://:{SECRET}@h': 1}}}}\n",
        f"tiers: {{hot: {{url: [{SECRET}]}}}}\n",
        f"tiers: {{cold: {{url: s3://b, secret_access_key: {SECRET}, oops: 1}}}}\n",
        f"tiers: {{cold: {{url: s3://k:{SECRET}@b}}}}\n",
        f"tiers: {{cold: {{url: s3://b, secret_access_key: *{SECRET}}}}}\n",
        f"tiers: {{cold: {{url: s3://b, secret_access_key: !{SECRET} x}}}}\n",
        f"tiers: {{cold: {{url: s3://b, secret_access_key: !{SECRET}!x y}}}}\n",
        f"tiers: {{cold: {{url: s3://b, secret_access_key: @{SECRET}}}}}\n",
        f'tiers: {{cold: {{url: s3://b, secret_access_key: "{SECRET}\n',
        f"catalog: {{url: 'postgresql://u:{SECRET}@h:port/db'}}\n",
        f"catalog: 'postgresql://u:{SECRET}@h/db'\n",
    ],
)
def test_refusal_never_shows_a_secret(text: str) -> None:
    """Neither the message nor the hint nor a traceback shows it (checked by `refusal`)."""
    assert "tiering.yaml:" in str(refusal(text))


# --- warnings --------------------------------------------------------------------------------------------------


def test_warnings_are_none_for_a_plain_file() -> None:
    """No warning without a doubt; to keep for ever is no doubt."""
    assert warnings(HEAD + CATCH_ALL) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD, "tiering.yaml:1: policies: no policies, so snapshots stay in Redis and PostgreSQL"),
        (
            HEAD + "policies:\n  - {name: a, match: {outcome: failed}, retain: forever}\n",
            "tiering.yaml:5: policies: no policy matches every snapshot",
        ),
        (
            HEAD
            + "policies:\n  - {name: all, retain: forever}\n  - name: old\n    retain: 1d\n    match: {step_name: x}\n",
            "tiering.yaml:9: policies[1].match: policy 'old' is never used",
        ),
        (
            HEAD + "policies:\n  - name: all\n    move:\n    - {to: GLACIER, after: 1d}\n    retain: 30d\n",
            "tiering.yaml:9: policies[0].retain: stays in GLACIER only 29d before deletion",
        ),
        (
            HEAD.replace("redis://", f"redis://:{SECRET}@") + CATCH_ALL,
            "tiering.yaml:2: tiers.hot.url: is a secret in the file; set SAGAZ_TIERING_TIERS__HOT__URL in the",
        ),
        (
            HEAD.replace("s3://bucket/prefix", "s3://b12, access_key_id: a, secret_access_key: b") + CATCH_ALL,
            "tiering.yaml:3: tiers.cold.secret_access_key: is a secret in the file",
        ),
        (
            HEAD.replace("s3://bucket/prefix", "file:///cold, region: us-east-1") + CATCH_ALL,
            "tiering.yaml:3: tiers.cold.region: is not used by a file:// cold tier",
        ),
        (
            HEAD.replace("s3://bucket/prefix", "file:///cold, connect_timeout: 9s") + CATCH_ALL,
            "tiering.yaml:3: tiers.cold.connect_timeout: is not used by a file:// cold tier",
        ),
        (HEAD + CATCH_ALL + "embedded: {data_dir: d}\n", "tiering.yaml:6: embedded: starts nothing"),
        (
            HEAD
            + "policies:\n  - {name: a, match: {attributes: {b: x}}, retain: 9d}\n  - {name: all, retain: forever}\n"
            + "attributes: [{name: b, path: b, saga_name: payment-*}]\n",
            "tiering.yaml:6: policies[0].match.attributes.b: attribute 'b' is that of saga_name payment-* alone",
        ),
        (
            HEAD
            + CATCH_ALL
            + f"attributes:\n  - {{name: a, path: a, hashed: true}}\nattribute_hash_key: {SECRET * 5}\n",
            "tiering.yaml:8: attribute_hash_key: is a secret in the file; set SAGAZ_TIERING_ATTRIBUTE_HASH_KEY in the",
        ),
    ],
)
def test_warning_names_line_and_fix(text: str, expected: str) -> None:
    """Each doubt, once, with its line and no secret."""
    (found,) = warnings(text)
    assert found.startswith(expected)
    assert SECRET not in found


def test_warnings_name_variables_that_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is pointed out."""
    monkeypatch.setenv("SAGAZ_TIERING_LOG_LEVEL", "debug")
    (found,) = warnings(HEAD + CATCH_ALL)
    assert found.startswith(
        "environment variable SAGAZ_TIERING_LOG_LEVEL: sets nothing; did you mean SAGAZ_TIERING_LOG__"
    )


def test_secret_from_the_environment_is_no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is where secrets belong."""
    monkeypatch.setenv("SAGAZ_TIERING_TIERS__HOT__URL", f"redis://:{SECRET}@h")
    assert warnings(HEAD + CATCH_ALL) == []
