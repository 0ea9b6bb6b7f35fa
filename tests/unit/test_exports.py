"""An export as files: every byte of it is proven, a kill loses nothing, and what is at its place stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.exact import exactly
from support.exports import begun, completed, exported, key_files, rows_of, write_round
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, make, number
from support.transfers import contents

from sagaz_tiering.app.storage_url import open_source, open_storage
from sagaz_tiering.errors import ConfigError, LeaseLost
from sagaz_tiering.exports.manifest import AlteredExport
from sagaz_tiering.exports.verify import verify_export
from sagaz_tiering.snapshot import SagaSnapshot

ODD: dict[str, Any] = {
    "price": Decimal("1.50"),
    "when": BEGUN,
    "half": "\ud83d",
    "halves": "\ud83d\ude00",
    "nul": "a\x00b",
    "nan": float("nan"),
    "big": 2**80,
    "raw": b"\x00\xff",
    "set": {1, 2},
    "deep": [[[{"~": 1}]]],
}


def some() -> list[SagaSnapshot]:
    """Two sagas of three snapshots, one with all that a context may hold."""
    first = [make(at, saga_id=OTHER_SAGA, saga_name="names\ud800 of any\nkind") for at in range(3)]
    return [*first, *(make(at, context={**ODD, "at": at}) for at in range(3, 6))]


@pytest.mark.parametrize("form", ["jsonl", "zip", "parquet"])
def test_export_verifies_as_it_was_made(tmp_path: Path, form: str) -> None:
    """Without a signature it says that nobody is proven to have made it; with one and its key that its holder did."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    private, public = key_files(tmp_path)
    exported(tmp_path / "plain", some(), form)
    exported(tmp_path / "signed", some(), form, private)
    plain, signed = verify_export(tmp_path / "plain"), verify_export(tmp_path / "signed", key=public)
    assert (plain.problems, signed.problems) == ([], [])
    assert any("not proven: who made it" in each for each in plain.proven)
    assert any("by the holder of the given key" in each for each in signed.proven)
    assert any("only --key" in each for each in verify_export(tmp_path / "signed").proven)


def files_of(export: Path) -> list[Path]:
    """Every file with bytes of it."""
    return sorted(export.iterdir()) if export.is_dir() else [export]


@pytest.mark.parametrize("form", ["jsonl", "zip"])
@pytest.mark.parametrize("is_signed", [True, False])
def test_verify_sees_each_bit_that_is_flipped(tmp_path: Path, form: str, is_signed: bool) -> None:
    """In every file, at random places and at both ends; of a folder it says which file."""
    private, _ = key_files(tmp_path)
    out = tmp_path / "export"
    exported(out, some(), form, private if is_signed else None)
    whole = {path: path.read_bytes() for path in files_of(out)}

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def flipped(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(whole)))
        size = len(whole[path])
        at = data.draw(st.one_of(st.sampled_from([0, size - 1]), st.integers(0, size - 1)))
        altered = bytearray(whole[path])
        altered[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(altered)
        try:
            problems = verify_export(out).problems
        finally:
            path.write_bytes(whole[path])
        assert problems
        if form == "jsonl" and path.name != "manifest.json":
            assert path.name in [each.part for each in problems]

    flipped()
    assert verify_export(out).problems == []


def test_verify_sees_every_flip_in_a_small_zip_file(tmp_path: Path) -> None:
    """Not one of its bytes is free: headers, times, names and padding bits included."""
    exported(tmp_path / "export.zip", [make(0), make(1)], "zip")
    whole = (tmp_path / "export.zip").read_bytes()
    for at in Random(4).sample(range(len(whole)), 300):
        altered = bytearray(whole)
        altered[at] ^= 0x10
        (tmp_path / "export.zip").write_bytes(altered)
        assert verify_export(tmp_path / "export.zip").problems, at


def test_verify_names_what_is_missing_or_was_added(tmp_path: Path) -> None:
    """A file that is gone, one that is shorter, and one that does not belong there."""
    private, _ = key_files(tmp_path)
    exported(tmp_path / "export", some(), "jsonl", private)
    for name in ("snapshots-00001.jsonl", "manifest.sig", "SHA256SUMS", "manifest.json"):
        copy = tmp_path / name
        shutil.copytree(tmp_path / "export", copy)
        (copy / name).unlink()
        assert [each.part for each in verify_export(copy).problems][:1] == [name]
        shutil.copy(tmp_path / "export" / name, copy / name)
        (copy / name).write_bytes((copy / name).read_bytes()[:-1])
        assert name in [each.part for each in verify_export(copy).problems]
    (tmp_path / "export" / "snapshots-00009.jsonl").write_bytes(b"{}\n")
    assert [each.part for each in verify_export(tmp_path / "export").problems] == ["snapshots-00009.jsonl"]
    with pytest.raises(ConfigError):
        verify_export(tmp_path / "nowhere")


def test_manifest_written_anew_is_seen_by_its_signature_alone(tmp_path: Path) -> None:
    """Who alters a part and everything that names its digest makes another unsigned export, but no signed one."""
    private, public = key_files(tmp_path)
    _, other = key_files(tmp_path, "other")
    exported(tmp_path / "true", some(), "jsonl", private)
    forged = [*some()[:-1], make(5, context={"paid": True})]
    exported(tmp_path / "forged", forged, "jsonl", key_files(tmp_path, "forger")[0])
    exported(tmp_path / "unsigned", forged)
    assert verify_export(tmp_path / "unsigned").problems == []
    for name, key in (("unsigned", public), ("forged", public), ("true", other)):
        assert "the given key is" in verify_export(tmp_path / name, key=key).problems[0].problem
    for name in ("manifest.json", "SHA256SUMS", "snapshots-00002.jsonl"):
        shutil.copy(tmp_path / "unsigned" / name, tmp_path / "true" / name)
    assert verify_export(tmp_path / "true", key=public).problems


def test_wrong_key_files_are_refused(tmp_path: Path) -> None:
    """A public key does not sign, a private one does not verify, and neither does what is no key."""
    private, public = key_files(tmp_path)
    exported(tmp_path / "export", some())
    (tmp_path / "text").write_text("a secret")
    for path in (private, tmp_path / "text", tmp_path / "nowhere"):
        with pytest.raises(ConfigError) as raised:
            verify_export(tmp_path / "export", key=path)
        assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError, match="not a private Ed25519 key"):
        exported(tmp_path / "more", some(), "jsonl", public)


def test_standard_tools_agree(tmp_path: Path) -> None:
    """`sha256sum --check` accepts the sums, `unzip` the ZIP file, as the documentation for auditors says."""
    exported(tmp_path / "export", some())
    exported(tmp_path / "export.zip", some(), "zip")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "export", check=True)
    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        assert archive.testzip() is None


@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("form", ["jsonl", "zip"])
async def test_export_is_read_back_exactly(tmp_path: Path, form: str) -> None:
    """Every value of every type, by saga and time, and the replay records by id."""
    exported(tmp_path / "export", some(), form)
    async with open_source(f"export://{tmp_path}/export") as source:
        assert [each async for each in source.saga_ids()] == [OTHER_SAGA, SAGA]
        found = [each async for each in source.iter_snapshots()]
        assert [exactly(each) for each in found] == [exactly(each) for each in some()]
        [replay] = [each async for each in source.iter_replay_logs()]
        assert (replay["replay_id"], replay["context_override"]) == (str(number(1)), {"why": "a test"})


async def test_source_refuses_what_is_not_as_it_was_made(tmp_path: Path) -> None:
    """Not a snapshot is read of an altered export, of one without the signature that is asked for, or of Parquet."""
    private, public = key_files(tmp_path)
    exported(tmp_path / "signed", some(), "jsonl", private)
    exported(tmp_path / "unsigned", some())
    async with open_source(f"export://{tmp_path}/signed?key={public}") as source:
        assert len([each async for each in source.iter_snapshots()]) == 6
    for url in (f"export://{tmp_path}/unsigned?key={public}", f"export://{tmp_path}/signed"):
        (tmp_path / "signed" / "timeline-00001.jsonl").write_bytes(b"")
        async with open_source(url) as source:
            with pytest.raises(AlteredExport):
                await contents(source)
    with pytest.raises(ConfigError, match="can only be read"):
        async with open_storage(f"export://{tmp_path}/unsigned"):
            pass


def test_draft_goes_on_behind_its_complete_parts(tmp_path: Path) -> None:
    """What a kill left half done is removed; what is complete stays, byte for byte; then it is one export."""
    first, second = some()[:3], some()[3:]
    draft, state = begun(tmp_path / "export")
    write_round(draft, state, first)
    kept = (draft.files / "snapshots-00001.jsonl").read_bytes()
    draft.add(rows_of(second), 2)
    draft.close()  # as a kill does
    assert not (tmp_path / "export").exists()
    draft, state = begun(tmp_path / "export")
    assert (state.mark, state.runs, state.counts.exported) == (OTHER_SAGA, 2, 3)
    assert {path.name for path in draft.files.iterdir()} == {"snapshots-00001.jsonl", "timeline-00001.jsonl"}
    write_round(draft, state, second)
    completed(draft, state, "jsonl")
    assert verify_export(tmp_path / "export").problems == []
    assert (tmp_path / "export" / "snapshots-00001.jsonl").read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


def test_draft_that_is_not_as_it_was_left_is_not_signed(tmp_path: Path) -> None:
    """A part that another hand altered, the draft of another export, a second process: each is told, none goes on."""
    draft, state = begun(tmp_path / "export")
    with pytest.raises(LeaseLost):
        begun(tmp_path / "export")
    write_round(draft, state, some())
    draft.close()
    with pytest.raises(ConfigError, match="another export"):
        begun(tmp_path / "export", "zip")
    with (draft.files / "snapshots-00001.jsonl").open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(ConfigError, match="not as it was written"):
        begun(tmp_path / "export")
    draft, state = begun(tmp_path / "export", restart=True)
    assert (state.mark, list(draft.files.iterdir())) == (None, [])
    draft.close()


@pytest.mark.parametrize("form", ["jsonl", "zip"])
def test_export_replaces_nothing_unless_that_is_asked_for(tmp_path: Path, form: str) -> None:
    """Neither at the beginning nor at the end; with `overwrite` the old one stays until the new one is complete."""
    out = tmp_path / "export"
    exported(out, some(), form)
    before = verify_export(out).manifest_sha256
    with pytest.raises(ConfigError, match="is there already"):
        exported(out, some(), form)
    draft, state = begun(out, form, overwrite=True)
    write_round(draft, state, some()[:3])
    with pytest.raises(ConfigError, match="cannot be written"):
        completed(draft, state, form)
    assert verify_export(out).manifest_sha256 == before
    completed(draft, state, form, overwrite=True)
    found = verify_export(out)
    assert (found.problems, found.manifest.counts.exported if found.manifest else 0) == ([], 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


FULL = """
import resource, sys
from pathlib import Path
from support.exports import begun, completed, rows_of, write_round
from support.snapshots import make
from sagaz_tiering.errors import ConfigError

out, form = Path(sys.argv[1]), sys.argv[2]
draft, state = begun(out, form)
write_round(draft, state, [make(0)])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    write_round(draft, state, [make(at, context={"text": str(at) * 1000}) for at in range(1, 100)])
except ConfigError as exc:
    print(exc, exc.hint)
draft.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
draft, state = begun(out, form)
assert (state.runs, state.counts.exported) == (2, 1), state
write_round(draft, state, [make(at) for at in range(1, 100)])
completed(draft, state, form)
"""


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_full_disk_is_told_and_loses_nothing(tmp_path: Path, form: str) -> None:
    """The error says what to do, and when there is room again the same export goes on."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    code = [sys.executable, "-X", "dev", "-c", FULL, str(tmp_path / "export"), form]
    tests = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    done = subprocess.run(code, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "make room" in done.stdout
    assert verify_export(tmp_path / "export").problems == []


def test_parquet_has_columns_that_can_be_worked_with(tmp_path: Path) -> None:
    """Times are times in UTC, numbers are numbers, contexts are JSON; every snapshot says where it came from."""
    parquet = pytest.importorskip("pyarrow.parquet")
    exported(tmp_path / "export", some(), "parquet")
    table = parquet.read_table(tmp_path / "export" / "snapshots-00001.parquet")
    columns = {name: str(table.schema.field(name).type) for name in table.schema.names}
    assert columns["created_at"] == "timestamp[us, tz=UTC]"
    assert (columns["step_index"], columns["completed_steps"]) == ("int32", "list<element: string>")
    assert columns["context"] == "string"
    [first, *_] = table.to_pylist()
    snapshot = some()[0]
    assert (UUID(first["saga_id"]), UUID(first["snapshot_id"])) == (snapshot.saga_id, snapshot.snapshot_id)
    assert first["created_at"].astimezone(UTC) == snapshot.created_at
    assert json.loads(first["context"]) == snapshot.context
    assert (first["tier"], first["saga_name"]) == ("hot", "names\\ud800 of any\nkind")
    odd = parquet.read_table(tmp_path / "export" / "snapshots-00002.parquet").to_pylist()[0]
    assert json.loads(odd["context"])["price"] == {"~decimal": "1.50"}
    assert odd["encoding"] == "typed"
    [replay] = parquet.read_table(tmp_path / "export" / "replays-00002.parquet").to_pylist()
    assert json.loads(replay["context_override"]) == {"why": "a test"}


def test_parquet_keeps_no_more_in_memory_than_a_row_group(tmp_path: Path) -> None:
    """Whatever column it is that is large."""
    parquet = pytest.importorskip("pyarrow.parquet")
    large = ["x" * 100_000] * 20
    fields: tuple[dict[str, Any], ...] = (
        {"completed_steps": large},
        {"external_refs": {str(at): each for at, each in enumerate(large)}},
        {"context": {"text": large}},
    )
    for number_of, each in enumerate(fields):
        exported(tmp_path / str(number_of), [make(at, **each) for at in range(16)], "parquet")
        file = parquet.ParquetFile(tmp_path / str(number_of) / "snapshots-00001.parquet")
        assert file.num_row_groups >= 2, each.keys()


OFFLINE = """
import sys
from sagaz_tiering.cli.app import run_app

code = run_app(["export", "verify", sys.argv[1], "--key", sys.argv[2]])
found = {name.partition(".")[0] for name in sys.modules} & {"redis", "asyncpg", "aioboto3", "botocore", "apscheduler"}
sys.exit(f"imported: {found}" if found else code)
"""


def test_verify_needs_no_server_and_no_driver(tmp_path: Path) -> None:
    """By the command line, in a process of its own; a changed byte is exit code 6."""
    private, public = key_files(tmp_path)
    exported(tmp_path / "export", some(), "jsonl", private)
    code = [sys.executable, "-c", OFFLINE, str(tmp_path / "export"), str(public)]
    done = subprocess.run(code, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "export" / "holds-00002.jsonl").write_bytes(b"")
    done = subprocess.run(code, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 6
    assert "error: holds-00002.jsonl: it has fewer" in done.stderr
