"""The command line on real servers: tables, JSON, exit codes, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from support.commands import DEADLINE_S, clean_environment, cli, save, write_config
from support.payload import saga

from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.catalog.mark import MarkStanding
from sagaz_tiering.cli.commands.status import STANDINGS
from sagaz_tiering.config.load import load_config
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import SagaSnapshot

NOWHERE = "127.0.0.1:1"
"""Nothing ever listens there."""

POLICIES = """\
policies:
  - name: frozen
    match: {saga_name: "frozen-*"}
    move: [{to: GLACIER, after: 1d}]
    even_if_costlier: true
  - name: orders
    match: {saga_name: "order-*"}
    move: [{to: STANDARD_IA, after: 7d}]
    even_if_costlier: true
    retain: 36500d
  - name: default
    match: {}
"""


def edit(path: Path, old: str, new: str) -> str:
    """Replace a text in a configuration; its new text."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path.read_text()


@pytest.fixture
def config(tmp_path: Path, database: str, redis_url: str) -> Path:
    """A configuration of servers with an empty catalog."""
    return write_config(tmp_path, database=database, redis_url=redis_url, policies=POLICIES)


@pytest.fixture
def bare_config(tmp_path: Path, empty_database: str, redis_url: str) -> Path:
    """A configuration of servers without a catalog."""
    return write_config(tmp_path, database=empty_database, redis_url=redis_url, policies=POLICIES)


@dataclass(frozen=True, slots=True)
class World:
    """A migrated installation with snapshots of every kind of place."""

    config: Path
    cold: list[SagaSnapshot]
    frozen: list[SagaSnapshot]
    hot: list[SagaSnapshot]


@pytest.fixture
async def world(config: Path) -> World:
    """One saga in a STANDARD_IA pack, one in a GLACIER pack, one in Redis."""
    now = datetime.now(UTC).replace(microsecond=123456)
    cold = saga(1, begun=now - timedelta(days=30))
    frozen = saga(2, begun=now - timedelta(days=30), saga_name="frozen-orders")
    hot = saga(3, begun=now - timedelta(hours=1))
    async with open_runtime(load_config(config)) as runtime:
        await save(runtime.storage(), cold + frozen + hot)
        for job in ("age", "transition"):
            await run_job(job, runtime.job_context())
    return World(config, cold, frozen, hot)


async def test_help_names_commands_and_exit_codes() -> None:
    """A stranger sees every command and what each exit code means, without any configuration."""
    answer = await cli("--help")
    assert answer.code == 0
    for word in ("run", "demo", "job", "status", "timeline", "show", "explain", "policy", "catalog", "Exit codes:"):
        assert word in answer.out
    assert (await cli("--version")).out.startswith("sagaz-tiering ")


async def test_wrong_command_line_is_an_error_with_a_hint() -> None:
    """Typos, missing commands and wrong ids are exit code 2, one line and a hint, also as JSON."""
    typo = await cli("statsu")
    assert (typo.code, typo.out) == (2, "")
    assert typo.err.startswith("error: no such command 'statsu'")
    assert "hint: see: sagaz-tiering --help" in typo.err
    assert (await cli("policy")).err.startswith("error: missing command")
    bad_id = await cli("timeline", "not-an-id", "--json")
    assert bad_id.code == 2
    assert bad_id.document["type"] == "UsageError"
    assert "Traceback" not in bad_id.err


async def test_config_is_looked_for_in_order(tmp_path: Path) -> None:
    """Without --config: the variable, then ./config/tiering.yaml, then an error that says where it looked."""
    nowhere = await cli("status", cwd=tmp_path)
    assert nowhere.code == 2
    for place in ("SAGAZ_TIERING_CONFIG", str(tmp_path / "config/tiering.yaml"), "/etc/sagaz-tiering/tiering.yaml"):
        assert place in nowhere.err
    (tmp_path / "config").mkdir()
    urls = {"database": f"postgresql://{NOWHERE}/x", "redis_url": f"redis://{NOWHERE}/0"}
    write_config(tmp_path / "config", **urls)
    assert (await cli("policy", "check", "--json", cwd=tmp_path)).document["file"] == "config/tiering.yaml"
    other = write_config(tmp_path, **urls, name="other.yaml")
    by_variable = await cli("policy", "check", "--json", cwd=tmp_path, SAGAZ_TIERING_CONFIG=str(other))
    assert by_variable.document["file"] == str(other)


async def test_policy_check_shows_policies(config: Path) -> None:
    """A valid file: exit 0, a table of the policies, the same as JSON."""
    table = await cli("policy", "check", config)
    assert table.code == 0, table.err
    for text in ("orders", "saga_name order-*", "STANDARD_IA after 7d", "36500d", "everything", "PostgreSQL"):
        assert text in table.out
    document = (await cli("policy", "check", "--json", "--config", config)).document
    assert document["ok"] is True
    assert [policy["name"] for policy in document["policies"]] == ["frozen", "orders", "default"]


async def test_policy_check_names_lines_of_errors(config: Path) -> None:
    """Every problem is reported with file and line; several are on lines of their own."""
    edit(config, "retain: 36500d", "retain: 3d")
    lines = edit(config, "{to: GLACIER,", "{to: GLACEIR,").splitlines()
    answer = await cli("policy", "check", config, "--json")
    assert answer.code == 2
    assert answer.document["type"] == "PolicyError"
    for part in ("retain: 3d", "GLACEIR"):
        line = 1 + next(i for i, each in enumerate(lines) if part in each)
        assert f"{config}:{line}: " in answer.err
    assert "did you mean GLACIER?" in answer.err


async def test_policy_check_warns(config: Path) -> None:
    """A policy that never matches is a warning with its line, and an error with --strict."""
    edit(config, "    match: {}\n", "    match: {}\n  - name: late\n    match: {saga_name: late-*}\n")
    answer = await cli("policy", "check", config)
    assert answer.code == 0
    assert "warning: " in answer.out
    assert "'late' is never used" in answer.out
    refused = (await cli("policy", "check", config, "--strict")).out
    assert f"{config} is not accepted: --strict, " in refused
    assert "is valid" not in refused
    strict = await cli("policy", "check", config, "--strict", "--json")
    assert strict.code == 2
    assert strict.document["ok"] is False
    assert f"{config}:" in strict.document["warnings"][0]["source"]


async def test_missing_schema_says_the_command(bare_config: Path) -> None:
    """Without a catalog every command that needs it says which command makes one."""
    for command in (("job", "age", "--once"), ("status",), ("timeline", uuid4()), ("show", uuid4())):
        answer = await cli(*command, "--config", bare_config, "--json")
        assert answer.code == 2, command
        assert "catalog migrate" in answer.err
        assert "Traceback" not in answer.err
        assert json.loads(answer.out)


async def test_catalog_migrate_is_repeatable(bare_config: Path) -> None:
    """The first run applies, the second has nothing to do."""
    first = await cli("catalog", "migrate", "--config", bare_config)
    assert first.code == 0, first.err
    assert re.match(r"applied \d+ steps\nthe catalog is at schema \d+\n$", first.out), first.out
    second = await cli("catalog", "migrate", "--config", bare_config, "--json")
    assert second.code == 0
    assert second.document["applied"] == []
    assert second.document["version"] >= 1


async def test_job_names_are_checked(config: Path) -> None:
    """A misspelt job is refused with the nearest name, before any server is asked."""
    answer = await cli("job", "transitoin", "--once", "--config", config)
    assert answer.code == 2
    assert "did you mean 'transition'?" in answer.err


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("status", "--days", "7"), "--days goes with --history"),
        (("status", "--days", "30", "--watch"), "--days goes with --history"),  # although it is the default
        (("status", "--every", "2"), "--every goes with --watch"),
        (("status", "--history", "--every", "5"), "--every goes with --watch"),
        (("status", "--history", "--count"), "--count is of what there is now"),
        (("restores", str(uuid4()), "--limit", "5"), "--limit is of the list, which has no RESTORE_ID"),
        (("erasures", str(uuid4()), "--cursor", "x"), "--cursor is of the list, which has no ERASURE_ID"),
        (("hold", "--name", "order-*", "--reason", "case", "--future"), "--future goes with a SAGA_ID or --match"),
    ],
)
async def test_options_that_would_do_nothing_are_refused(config: Path, given: tuple[str, ...], why: str) -> None:
    """An option of another mode is not ignored: it is told where it goes, before any server is asked."""
    answer = await cli(*given, "--config", config, "--json")
    assert (answer.code, answer.document["type"]) == (2, "UsageError")
    assert answer.document["error"].startswith(why)
    assert answer.document["hint"]


async def test_job_reports(config: Path) -> None:
    """A dry run counts and changes nothing; a run does it; a second finds nothing to do."""
    old = saga(1, begun=datetime.now(UTC) - timedelta(days=30))
    async with open_runtime(load_config(config)) as runtime:
        await save(runtime.storage(), old)
    dry = await cli("job", "age", "--dry-run", "--json", "--config", config)
    assert dry.code == 0, dry.err
    assert dry.document["dry_run"] is True
    assert dry.document["counts"]
    ran = await cli("job", "age", "--once", "--config", config)
    assert ran.code == 0, ran.err
    assert "age: done" in ran.out
    again = await cli("job", "age", "--once", "--json", "--config", config)
    assert again.code == 0
    assert not any(again.document["counts"].values())


async def test_job_outside_its_windows_says_so_and_how_to_run_all_the_same(
    tmp_path: Path, database: str, redis_url: str
) -> None:
    """It does nothing by hand either, unless told to at any time; status says when it runs next, and by what times."""
    later = datetime.now(UTC) + timedelta(days=3)
    window = f'{{days: {later:%A}, from: "00:00", until: "24:00"}}'
    schedule = f"schedule: {{scrub: {{windows: [{window}]}}}}\n"
    windowed = write_config(tmp_path, database=database, redis_url=redis_url, policies=schedule)
    refused = await cli("job", "scrub", "--once", "--config", windowed)
    assert (refused.code, refused.out) == (14, "")
    assert f"no window of it is open before {later:%Y-%m-%d} 00:00:00Z" in refused.err
    assert "sagaz-tiering job scrub --once --any-time" in refused.err
    assert (await cli("job", "scrub", "--dry-run", "--config", windowed)).code == 0
    told = {run["job"]: run for run in (await cli("status", "--config", windowed, "--json")).document["next_runs"]}
    assert told["scrub"]["at"] == f"{later:%Y-%m-%d}T00:00:00+00:00"
    assert (told["scrub"]["times"], told["scrub"]["is_open"]) == ("every 1d, in windows", False)
    forced = await cli("job", "scrub", "--once", "--any-time", "--config", windowed, "--json")
    assert (forced.code, forced.document["opens_at"]) == (0, None)


async def test_job_repeats_until_terminated(config: Path) -> None:
    """Without --once each run is one line of JSON, and SIGTERM ends it with exit code 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sagaz_tiering", "job", "expire", "--json", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(SAGAZ_TIERING_SCHEDULE__EXPIRE__EVERY="100ms"),
    )
    assert process.stdout is not None
    try:
        for _ in range(2):
            line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
            assert json.loads(line)["job"] == "expire"
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0


async def test_status_shows_every_tier(world: World) -> None:
    """Snapshots, bytes and dollars per tier and the last jobs, as a table and as JSON."""
    table = await cli("status", "--count", "--config", world.config)
    assert table.code == 0, table.err
    for text in ("hot (Redis)", "durable (PostgreSQL)", "cold STANDARD_IA", "cold GLACIER", "$", "age", "orders"):
        assert text in table.out
    assert "this catalog owns the cold tier" in table.out
    assert STANDINGS.keys() == set(MarkStanding)
    document = (await cli("status", "--count", "--json", "--config", world.config)).document
    assert document["hot"]["snapshots"] == len(world.hot)
    packs = {pack["storage_class"]: pack["snapshots"] for pack in document["packs"]}
    assert packs == {"STANDARD_IA": len(world.cold), "GLACIER": len(world.frozen)}
    assert {run["job"] for run in document["jobs"]} >= {"age", "transition"}
    assert document["daemon_seen"] is False  # those were run by hand
    for command in (("status",), ("plan",), ("explain", world.cold[0].saga_id)):
        assert "no daemon ran the jobs lately" in (await cli(*command, "--config", world.config)).out, command
    assert document["errors"] == {}


async def test_status_survives_a_server_that_is_down(world: World, tmp_path: Path, database: str) -> None:
    """What can be asked is shown, what cannot is named, and the exit code says so."""
    down = write_config(tmp_path, database=database, redis_url=f"redis://{NOWHERE}/0", name="down.yaml")
    answer = await cli("status", "--json", "--config", down)
    assert answer.code == 4
    document = answer.document
    assert list(document["errors"]) == ["redis"]
    assert document["servers"]["redis"] == f"redis://{NOWHERE}/0"
    assert document["servers"]["postgresql"] == str(load_config(down).catalog.url)
    assert document["packs"]
    assert "error: redis: " in answer.err
    away = write_config(
        tmp_path, database=f"postgresql://x@{NOWHERE}/x", redis_url=f"redis://{NOWHERE}/0", name="no.yaml"
    )
    assert (await cli("find", "--config", away)).err.startswith("error: PostgreSQL at ")
    assert "tiers.hot.url" in answer.err


async def test_timeline_shows_the_tier_of_each_snapshot(world: World) -> None:
    """Also where the bytes are archived."""
    frozen = await cli("timeline", world.frozen[0].saga_id, "--config", world.config)
    assert frozen.code == 0, frozen.err
    assert frozen.out.count("cold GLACIER") == len(world.frozen)
    document = (await cli("timeline", world.hot[0].saga_id, "--json", "--config", world.config)).document
    assert [each["snapshot_id"] for each in document["snapshots"]] == [str(s.snapshot_id) for s in world.hot]
    assert {each["tier"] for each in document["snapshots"]} == {"hot"}


async def test_show_reads_from_any_tier(world: World) -> None:
    """By id, the newest, and the newest at a time; the document is the snapshot."""
    for snapshots in (world.hot, world.cold):
        third = snapshots[2]
        at = third.created_at.isoformat()
        queries = (
            ((third.snapshot_id,), third),
            (("--saga", third.saga_id), snapshots[-1]),
            (("--saga", third.saga_id, "--at", at), third),
        )
        for query, wanted in queries:
            answer = await cli("show", *query, "--json", "--config", world.config)
            assert answer.code == 0, answer.err
            assert answer.document == wanted.to_dict()
    pretty = await cli("show", world.cold[0].snapshot_id, "--config", world.config)
    assert json.loads(pretty.out) == world.cold[0].to_dict()


async def test_show_tells_values_that_json_lacks(world: World) -> None:
    """A datetime or bytes are shown with their type, lone surrogates and escape codes harmlessly."""
    odd = replace(
        world.hot[0],
        snapshot_id=uuid4(),
        saga_id=uuid4(),
        context={"at": world.hot[0].created_at, "raw": b"\x00\xff", "text": "Gda\u0144sk \ud800 \x1b[31m \u202e"},
    )
    async with open_runtime(load_config(world.config)) as runtime:
        await save(runtime.storage(), [odd])
    answer = await cli("show", odd.snapshot_id, "--config", world.config)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["context"]["raw"] == {"~bytes": "AP8="}
    assert json.loads(answer.out)["context"]["text"] == odd.context["text"]
    assert "Gdańsk" in answer.out
    for char in ("\x1b", "\u202e"):
        assert char not in answer.out


async def test_show_of_archived_bytes_says_how_to_restore(world: World) -> None:
    """Exit code 5, with the class, the wait and the price."""
    answer = await cli("show", world.frozen[0].snapshot_id, "--json", "--config", world.config)
    assert answer.code == 5
    assert answer.document["type"] == "SnapshotArchived"
    for text in ("GLACIER", "Standard", "$"):
        assert text in answer.document["error"]


async def test_what_does_not_exist_is_exit_code_8(world: World) -> None:
    """For snapshots, sagas and explanations alike, as a line and as JSON."""
    for command in (("show", uuid4()), ("show", "--saga", uuid4()), ("timeline", uuid4()), ("explain", uuid4())):
        answer = await cli(*command, "--config", world.config)
        assert answer.code == 8, command
        assert answer.out == ""
        assert answer.err.startswith("error: ")
        assert json.loads((await cli(*command, "--json", "--config", world.config)).out)
        assert "sagaz-tiering erasures" in answer.err, command
    saga = world.hot[0].saga_id
    assert f"show --saga {saga} --latest" in (await cli("show", saga, "--config", world.config)).err
    unknown = uuid4()
    told = (await cli("explain", unknown, "--config", world.config)).err
    assert told.startswith(f"error: no snapshot and no saga {unknown}\n")
    assert f"; asked was the catalog at {load_config(world.config).catalog.url}\n" in told


async def test_show_refuses_contradictions(world: World) -> None:
    """A snapshot id and a saga exclude each other; a time needs a zone."""
    some = uuid4()
    for query in ((), (some, "--saga", some), (some, "--latest"), ("--saga", some, "--at", "2026-03-01T12:00:00")):
        answer = await cli("show", *query, "--config", world.config)
        assert answer.code == 2, query
        assert answer.err.startswith("error: ")


async def test_explain_says_why(world: World) -> None:
    """The policy, the place, the next move and the expiry."""
    hot = await cli("explain", world.hot[0].snapshot_id, "--config", world.config)
    assert hot.code == 0, hot.err
    for text in ("orders", "hot", "STANDARD_IA", "expires:"):
        assert text in hot.out
    document = (await cli("explain", world.cold[0].snapshot_id, "--json", "--config", world.config)).document
    assert document["found"] is True
    assert document["policy"] == "orders"
    assert [copy["storage_class"] for copy in document["copies"]] == ["STANDARD_IA"]


async def test_unreachable_servers_are_exit_code_4(world: World, tmp_path: Path, database: str, redis_url: str) -> None:
    """A read that needs PostgreSQL says so instead of finding nothing; jobs need both servers."""
    down = write_config(tmp_path, database=f"postgresql://{NOWHERE}/x", redis_url=redis_url, name="no-pg.yaml")
    cold = await cli("show", world.cold[0].snapshot_id, "--json", "--config", down)
    assert cold.code == 4
    assert cold.document["type"] == "CatalogUnavailable"
    assert "catalog.url" in cold.err
    no_redis = write_config(tmp_path, database=database, redis_url=f"redis://{NOWHERE}/0", name="no-redis.yaml")
    for config in (down, no_redis):
        job = await cli("job", "age", "--once", "--config", config)
        assert job.code == 4
        assert "hint: check" in job.err
        assert "Traceback" not in job.err


async def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """Only then."""
    missing = tmp_path / "missing.yaml"
    assert "Traceback" not in (await cli("status", "--config", missing)).err
    assert "Traceback" in (await cli("status", "--config", missing, "--debug")).err


async def test_hostile_names_cannot_reach_the_terminal(world: World) -> None:
    """Escape codes, markup, line breaks and direction marks in names are shown, not obeyed."""
    name = "[red]order\x1b[2J\r\n\u202eevil"
    hostile = replace(
        world.hot[0], snapshot_id=uuid4(), saga_id=uuid4(), saga_name=name, step_name=name, status="\x9b31m"
    )
    async with open_runtime(load_config(world.config)) as runtime:
        await save(runtime.storage(), [hostile])
    for command in (("timeline", hostile.saga_id), ("explain", hostile.snapshot_id), ("show", hostile.snapshot_id)):
        answer = await cli(*command, "--config", world.config)
        assert answer.code == 0, answer.err
        for char in ("\x1b", "\x9b", "\r", "\u202e"):
            assert char not in answer.out
    assert "[red]order\\x1b[2J" in (await cli("timeline", hostile.saga_id, "--config", world.config)).out


def test_exit_codes_of_all_errors_are_documented() -> None:
    """No error class has an exit code that the help and docs/cli.md do not explain."""
    from sagaz_tiering.cli.app import EXIT_CODES

    def codes(kind: type[SagazTieringError]) -> set[int]:
        return {kind.exit_code}.union(*map(codes, kind.__subclasses__()))

    documented = {code for code, _ in EXIT_CODES}
    assert codes(SagazTieringError) <= documented
    text = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    assert all(f"| {code} | " in text for code in documented)


def test_parsed_ids_are_uuids() -> None:
    """Both spellings of a UUID mean the same."""
    from sagaz_tiering.cli.parsing import parse_id

    wanted = uuid4()
    assert parse_id(wanted.hex, "X") == parse_id(str(wanted), "X") == UUID(str(wanted))
