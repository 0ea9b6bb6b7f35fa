"""Every example runs and shows what it is there for; `docs/seeds.md` leaves out no heading and no option."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
from support.commands import Answer, clean_environment, cli, script
from support.s3_server import S3Server

import sagaz_tiering

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
DEADLINE_S = 300

# What each script needs, and what it must have printed, in this order.
SHOWS: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "backends.py": (
        {"redis", "postgres", "s3"},
        (
            r"memory: 3 snapshots, from reserve_stock to book_parcel",
            r"filesystem: 3 snapshots.*\n.*'total_snapshots': 3",
            r"redis: 3 snapshots.*\n.*'default_ttl': 2592000",
            r"postgresql: 3 snapshots.*\n.*'pool_max_size': 20",
            r"s3: 3 snapshots.*\n.*'storage_class': 'STANDARD_IA'",
            r"SQL: order A-17 has snapshots of \['book_parcel', 'charge_card', 'reserve_stock'\]",
            r"from the environment: \['healthy', 'healthy'\]",
            r"as by default: 3 readable",
        ),
    ),
    "hybrid.py": (
        {"redis", "postgres", "s3"},
        (
            r"Redis has None, S3 has None: the snapshot is lost",
            r"SnapshotArchived from GLACIER",
            r"0 days on: hot +reads amount 49.9",
            r"9 days on: cold STANDARD_IA reads amount 49.9",
            r"90 days on: cold GLACIER is archived; to restore: \w+",
        ),
    ),
    "move.py": (
        {"redis", "s3"},
        (
            r"gives 100 of 120",
            r"first run: 5 copied, 120 there, 0 failed",
            r"second run: 0 copied, 125 there, 0 failed",
            r"production has 3 of the 3",
            r"from sagaz: charge_card \{'amount': 49.9\}",
        ),
    ),
    "monitoring.py": (
        {"redis", "postgres", "s3"},
        (
            r"pip install sagaz\n",
            r"Redis memory used: [\d.]+\w",
            r"PostgreSQL table and indexes: \d+ kB",
            *(
                rf"Saved 3, visible 2; cleaned up 1 .* deleted 2 .*\n{name}:\n  Status: healthy in"
                for name in (
                    "InMemorySnapshotStorage",
                    "FilesystemSnapshotStorage",
                    "RedisSnapshotStorage",
                    "PostgreSQLSnapshotStorage",
                    "S3SnapshotStorage",
                )
            ),
            r"down: Redis at redis://:\*\*\*@127.0.0.1:1",
            r"Status: unhealthy",
        ),
    ),
    "lifecycle.py": (
        {"redis", "postgres", "s3"},
        (
            r"as documented: Unknown parameter.*\"Id\"",
            r"\['ArchiveOldSnapshots', 'UnfinishedUploads'\]",
            r"moved by a rule: GLACIER; aws s3api restore-object",
            r"moved by the policy: STANDARD_IA",
            r"moved by a rule: SnapshotArchived; the catalog still says STANDARD_IA",
            r"reads amount 49.9 again",
        ),
    ),
    "performance.py": (
        {"redis", "postgres", "s3"},
        (r"memory .*save", r"filesystem", r"redis", r"postgresql", r"s3 ", r"no compression: \d+", r"level 22: \d+"),
    ),
    "development.py": (
        set(),
        (
            r": completed\n",
            r"dev-snapshots/indexes/[\w-]+\.json",
            r"dev-snapshots/snapshots/[\w-]+/[\w-]+\.json",
            r'\n    "saga_name": "payments"',
            r"ON_FAILURE: rolled_back",
            r"captured: capture_payment compensating after \['authorize_payment'\]",
            r"captured: __rolled_back__ rolled_back after \[\]",
            r"debug: authorize_payment \['amount'\] kept for 7 days",
            r"compression: \d+ bytes of JSON are \d+ bytes",
        ),
    ),
    "research.py": (
        set(),
        (
            r"research: .*processed",
            r"Captured 3 snapshots of 1 sagas",
            r"Storage size: [\d.]+ MB",
            r"Step: __completed__, Status: completed\nStep: step2, Status: executing\nStep: step1",
            r"\.json: step\d exp-001",
            r"in memory: 3 snapshots",
        ),
    ),
    "quickstart.py": (
        set(),
        (
            r"charge_card +executing +is in the tier hot",
            r"archived +3",
            r"__completed__ +completed +is in the tier cold STANDARD_IA",
            r"read from the pack: .*'charged': 49.9",
            r"next: sagaz-tiering explain",
        ),
    ),
    "shop.py": (set(), (r"rolled_back: .*expired", r"charge_card +executing", r"sagaz-tiering replay run")),
}
NOT_SCRIPTS = {"places.py", "test_fixture.py"}


def assert_shows(ran: Answer, patterns: tuple[str, ...]) -> None:
    """Exit code 0, and every pattern behind the one before."""
    assert ran.code == 0, ran.err
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(ran.out, at)
        assert found, f"{pattern!r} is not behind position {at} of:\n{ran.out}\n{ran.err}"
        at = found.end()


def test_every_example_is_run() -> None:
    """A script that is added must be added here."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == SHOWS.keys() | NOT_SCRIPTS


@pytest.mark.parametrize("name", sorted(SHOWS))
async def test_example_shows_what_it_is_for(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, empty_database: str, redis_url: str
) -> None:
    """On the servers that it is given."""
    needs, patterns = SHOWS[name]
    given = ["--rounds", "3"] if name == "performance.py" else []
    if "redis" in needs:
        given += ["--redis", redis_url]
    if "postgres" in needs:
        given += ["--postgres", empty_database]
    if "s3" in needs:
        server: S3Server = request.getfixturevalue("s3_server")
        given += ["--s3", server.endpoint, "--bucket", await server.make_bucket()]
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}
    assert_shows(await script(EXAMPLES / name, *given, cwd=tmp_path, **keys), patterns)


async def test_example_starts_the_servers_that_it_is_not_given(tmp_path: Path) -> None:
    """And leaves no folder behind."""
    ran = await script(EXAMPLES / "backends.py", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert_shows(ran, SHOWS["backends.py"][1])
    assert not [name for name in os.listdir(tmp_path) if name.startswith("sagaz-tiering-example-")]


async def test_fixture_of_the_examples_works_in_a_project_of_its_own(tmp_path: Path) -> None:
    """With nothing of this repository's configuration but asyncio_mode."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (tmp_path / "test_fixture.py").write_text((EXAMPLES / "test_fixture.py").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environ = clean_environment()
    ran = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert_shows(Answer(ran.returncode, ran.stdout, ran.stderr), (r"2 passed",))


async def test_policies_of_the_examples_are_valid(tmp_path: Path) -> None:
    """Without a warning; and the permissions are a JSON document."""
    checked = await cli("policy", "check", "--strict", EXAMPLES / "lifecycle.yaml", cwd=tmp_path)
    assert_shows(checked, (r"archive-old-snapshots", r"STANDARD_IA after 90d, GLACIER after 365d"))
    statements = json.loads((EXAMPLES / "iam-policy.json").read_text(encoding="utf-8"))["Statement"]
    assert {action for statement in statements for action in statement["Action"]} == {
        *("s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"),
        *("s3:RestoreObject", "s3:AbortMultipartUpload"),
        *("s3:GetBucketVersioning", "s3:ListBucketVersions", "s3:DeleteObjectVersion"),
    }


# The original documentation of sagaz storage backends: its headings, and the options with their defaults.
HEADINGS = {
    "Saga Replay Storage Backends": (
        "Overview",
        "Available Backends",
        "1. InMemorySnapshotStorage",
        "2. RedisSnapshotStorage",
        "3. PostgreSQLSnapshotStorage",
        "4. S3SnapshotStorage",
        "Compression",
        "Choosing a Backend",
        "Migration Between Backends",
        "Monitoring & Metrics",
        "Best Practices",
        "Troubleshooting",
        "Redis Connection Issues",
        "PostgreSQL Schema Issues",
        "S3 Permissions",
        "Security Considerations",
        "Redis",
        "PostgreSQL",
        "S3",
        "See Also",
    ),
    "Filesystem Snapshot Storage - Usage Guide": (
        "Overview",
        "Features",
        "Quick Start",
        "Basic Usage",
        "Directory Structure",
        "Configuration Options",
        "Use Cases",
        "1. Local Development",
        "2. Research & Analysis",
        "3. Testing",
        "4. Debugging",
        "Advanced Features",
        "Storage Statistics",
        "Cleanup Operations",
        "With Compression",
        "Context Manager",
        "Comparison with Other Backends",
        "Limitations",
        "Migration Path",
        "Example: Full Workflow",
        "Troubleshooting",
        "Permission Errors",
        "Disk Space Issues",
        "Performance Concerns",
        "Summary",
    ),
}
OPTIONS = {
    "RedisSnapshotStorage": {
        "redis_url": "redis://localhost:6379",
        "key_prefix": "snapshot:",
        "default_ttl": None,
        "enable_compression": True,
        "compression_level": 3,
    },
    "PostgreSQLSnapshotStorage": {"connection_string": None, "pool_min_size": 5, "pool_max_size": 20},
    "S3SnapshotStorage": {
        "bucket_name": None,
        "region_name": "us-east-1",
        "prefix": "snapshots/",
        "enable_compression": True,
        "compression_level": 3,
        "enable_encryption": True,
        "storage_class": "STANDARD",
    },
    "FilesystemSnapshotStorage": {"base_path": "./saga-snapshots", "enable_compression": False, "pretty_json": True},
}
NAMES = (
    *("InMemorySnapshotStorage", "SnapshotStrategy", "SagaConfig", "ReplayConfig", "MissingDependencyError", "package"),
    *("enable_snapshots", "snapshot_strategy", "retention_days", "ON_FAILURE", "BEFORE_EACH_STEP"),
    *("save_snapshot", "get_snapshot", "get_latest_snapshot", "list_snapshots", "limit"),
    *("delete_expired_snapshots", "cleanup_saga", "retention_until", "created_at"),
    *("health_check", "status", "snapshot_count", "total_size_bytes", "_get_redis", "_get_pool", "CREATE_TABLES_SQL"),
    *("get_storage_info", "storage_type", "compression_enabled"),
    *("total_sagas", "total_snapshots", "total_replays", "total_size_mb"),
    *("STANDARD", "STANDARD_IA", "GLACIER", "GLACIER_DEEP_ARCHIVE", "Id"),
    *("s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket", "rediss://", "sslmode=require", "SSE-KMS"),
    *("TDE", "CORS", "redis", "zstandard", "asyncpg", "aioboto3", "os.makedirs", "os.chmod"),
)


def seeds() -> str:
    """The page."""
    return (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Of every table in it, as cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def section(title: str) -> str:
    """What stands under a heading of the second level."""
    return seeds().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("document", HEADINGS)
def test_every_heading_of_the_original_has_its_row(document: str) -> None:
    """In the order of the original, each with something to say."""
    found = [row for row in rows(section(document)) if row[0] not in ("Heading", "---")]
    assert [row[0] for row in found] == list(HEADINGS[document])
    assert all(row[1] for row in found)


def test_every_option_of_the_original_is_there_in_its_order_with_its_default() -> None:
    """In the constructors, and in the table."""
    listed: dict[str, list[str]] = {}
    of = ""
    for first, option, *_ in rows(section("Options").partition("\n### ")[0])[2:]:
        of = first.strip("`") or of
        listed.setdefault(of, []).append(option.strip("`"))
    for name, options in OPTIONS.items():
        parameters = list(signature(getattr(sagaz_tiering, name)).parameters.values())
        positional = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        assert list(positional.items()) == list(options.items()), name
        assert listed[name] == list(options), name


def test_every_name_of_the_original_is_mentioned() -> None:
    """As code or in plain words."""
    text = seeds()
    assert [name for name in NAMES if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)] == []


def test_what_the_page_points_at_exists() -> None:
    """Files, the functions in them, and places on the page."""
    text = seeds() + (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:examples|sagaz_tiering|docs|config)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for names, path in re.findall(r"((?:`\w+`(?:, | and )?)+)(?: \([^)|]*\))? in\s`(examples/\w+\.py)`", text):
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"(?:def|class) {name}\b", source), f"{name} is not in {path}"
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"\n#+ (.+)", seeds())}
    assert set(re.findall(r"\(#([\w-]+)\)", seeds())) <= anchors
