"""Exports that somebody made to deceive or to harm whoever verifies or imports them: each is refused, and says why."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.exports import begun, exported, key_files
from support.snapshots import make

from sagaz_tiering.app.storage_url import open_source
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.manifest import MANIFEST, AlteredExport, Manifest, manifest_bytes, read_manifest, sums_bytes
from sagaz_tiering.exports.verify import ExportVerification, verify_export
from sagaz_tiering.exports.zip_form import (
    COMMENT,
    SEAL,
    Member,
    comment,
    directory,
    directory_place,
    header,
    read_directory,
    sealed,
)

Part = tuple[Member, bytes]


def parts_in(data: bytes) -> list[Part]:
    """The members of a ZIP file, and their deflated bytes."""
    at, count = directory_place(data)
    return [(each, data[each.at : each.end]) for each in read_directory(data[at:-COMMENT], count)]


def resealed(data: bytes, signer: Any = None) -> bytes:
    """What a forger without the key makes of bytes that need a comment: one with the right digest."""
    seal = sha256(data + SEAL).hexdigest()
    return data + comment(seal, None if signer is None else signer.sign(sealed(seal)))


def assembled(parts: list[Part], between: bytes = b"") -> bytes:
    """A ZIP file of these, each where it comes to lie, with the right digest at its end."""
    data, members = b"", []
    for member, packed in parts:
        data += between if members else b""
        members.append(replace(member, offset=len(data), packed=len(packed)))
        data += header(members[-1]) + packed
    return resealed(data + directory(members))


def packed(data: bytes) -> bytes:
    """As a member has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def part_of(name: str, data: bytes, **lies: int) -> Part:
    """A member, and what it says of itself wrongly."""
    member = Member(name=name, crc=zlib.crc32(data), size=len(data), packed=0, offset=0)
    return replace(member, **lies), packed(data)


def forgeries(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """ZIP files that other tools read, with the same parts or with others, and the right digest at their ends."""
    parts, at = parts_in(whole), directory_place(whole)[0]
    body, end = whole[:at], whole[at:-COMMENT]
    [name] = [member.name for member, _ in parts if member.name.startswith("snapshots-00001")]
    at_name = body.index(name.encode())
    other = part_of(name, b'{"forged":1}\n')
    yield "a prefix", resealed(b"#!/bin/sh\n" + body + end)
    yield "a prefix that the directory knows of", b"#!/bin/sh\n" + assembled(parts)
    yield "bytes between the members", assembled(parts, between=b"hidden")
    yield "bytes before the directory", resealed(body + b"hidden" + end)
    yield "bytes behind the directory", resealed(body + end + b"hidden")
    yield "bytes behind the end", resealed(body + end) + b"hidden"
    yield "bytes behind what is deflated", assembled([(member, data + b"hidden") for member, data in parts])
    yield "a member twice", assembled([*parts, other])
    yield "a member twice beside itself", assembled([each for each in parts for _ in range(2)])
    yield (
        "another one that the directory does not have",
        resealed(body + header(other[0]) + other[1] + directory([member for member, _ in parts])),
    )
    yield "another name in the header", resealed(body[:at_name] + b"snapshots-00009" + body[at_name + 15 :] + end)
    yield "another time in the header", resealed(body[: at_name - 18] + b"\1" + body[at_name - 17 :] + end)
    yield "another size in the header", resealed(body[: at_name - 8] + b"\1" + body[at_name - 7 :] + end)
    yield "another order", assembled(parts[::-1])
    yield "a member more", assembled([*parts[:-1], part_of("timeline-00009.jsonl", b""), parts[-1]])
    yield "a member that is none of an export", assembled([*parts, part_of("virus.exe", b"MZ")])
    yield "one that leads out", assembled([*parts, part_of("../../x", b"x")])
    yield "a directory that is longer", resealed(body + end[:-22] + b"\0" * 9 + end[-22:])
    yield "nothing", b""
    yield "an end alone", resealed(directory([]))


def test_zip_file_is_of_one_form_alone(tmp_path: Path) -> None:
    """Whatever else other tools would accept is refused, though its digest is right and its parts are as they were."""
    out = tmp_path / "export.zip"
    exported(out, [make(0), make(1)], "zip")
    whole = out.read_bytes()
    assert assembled(parts_in(whole)) == whole
    for what, data in forgeries(whole):
        out.write_bytes(data)
        assert verify_export(out).problems, what
    with zipfile.ZipFile(tmp_path / "again.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in parts_in(whole):
            archive.writestr(member.name, zlib.decompress(data, -15))
    assert verify_export(tmp_path / "again.zip").problems


def entry_of(
    *, size: int = 0xFFFF_FFFF, packed: int = 0xFFFF_FFFF, offset: int = 0, wide: tuple[int, ...] = ()
) -> bytes:
    """An entry of a directory that is there first, with these numbers and those of its field of 64 bits."""
    name, more = MANIFEST.encode(), struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide)
    fixed = (3 << 8 | 45, 45, 0, 8, 0, 33, 0, packed, size, len(name), len(more), 0, 0, 0, 0o600 << 16, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *fixed) + name + more


@pytest.mark.parametrize(
    "entry",
    [
        entry_of(wide=(5, 2**40)),
        entry_of(wide=(2**40, 2**64 - 1)),
        entry_of(wide=(2**40, 2**63 - 1, 2**63), offset=0xFFFF_FFFF),
        entry_of(wide=(0, 0)),
        entry_of(size=0xF000_0000, packed=7),
    ],
    ids=["small as wide", "packed beyond any file", "offset beyond any file", "empty as wide", "large as narrow"],
)
def test_sizes_that_no_export_has_are_told_not_raised(tmp_path: Path, entry: bytes) -> None:
    """Of 64 bits where 32 are enough, the other way round, or beyond any file."""
    with pytest.raises(AlteredExport, match="sizes"):
        read_directory(entry, 1)
    out = tmp_path / "export.zip"
    body = bytes(30)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(body), COMMENT)
    out.write_bytes(resealed(body + entry + end))
    assert verify_export(out).problems


def edited(whole: bytes, how: str, at: int, draw: Random) -> bytes:
    """Bytes with one change."""
    some = draw.randbytes(draw.randrange(1, 40))
    if how == "flip":
        return whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]
    if how == "insert":
        return whole[:at] + some + whole[at:]
    if how == "repeat":
        return whole[:at] + whole[at : at + len(some)] + whole[at:]
    return whole[:at] + whole[at + len(some) :]


def inflated(data: bytes) -> bytes | None:
    """What such bytes are; None if they are nothing."""
    try:
        return zlib.decompress(data, -zlib.MAX_WBITS)
    except zlib.error:
        return None


def test_no_edit_of_a_signed_zip_file_goes_unseen(tmp_path: Path) -> None:
    """Flipped, inserted, repeated or removed anywhere, and the digest made anew: it is seen, and the part is named."""
    private, public = key_files(tmp_path)
    out = tmp_path / "export.zip"
    exported(out, [make(at) for at in range(4)], "zip", private)
    whole = out.read_bytes()
    bare, parts = whole[:-COMMENT], parts_in(whole)

    @settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["flip", "insert", "repeat", "remove"]), st.integers(0, len(bare) - 1), st.randoms())
    def seen(how: str, at: int, draw: Random) -> None:
        data = edited(bare, how, at, draw)
        if data == bare:
            return
        out.write_bytes(resealed(data))
        problems = {each.part for each in verify_export(out, key=public).problems}
        assert problems
        for member, before in parts:
            if how == "flip" and member.offset <= at < member.end:
                assert problems <= {member.name, "*", *(["SHA256SUMS"] if member.name == "manifest.sig" else [])}
                if inflated(data[member.at : member.end]) != inflated(before):
                    assert member.name in problems

    seen()
    out.write_bytes(resealed(bare, load_pem_private_key(private.read_bytes(), None)))
    assert out.read_bytes() == whole
    assert verify_export(out, key=public).problems == []


def test_large_zip_file_is_read_by_other_tools_and_by_us(tmp_path: Path) -> None:
    """Members and directory beyond 4 GiB, and more members than 65,535 (of holes, so that it takes no room)."""
    wide = Member(name="holds-00001.jsonl", crc=1, size=2**40, packed=2**33, offset=0)
    far = Member(name="snapshots-00001.jsonl", crc=2, size=7, packed=9, offset=wide.end)
    many = [Member(name="holds-00000.jsonl", crc=0, size=0, packed=2, offset=0)]
    for number in range(1, 70_000):
        many.append(replace(many[0], name=f"holds-{number:05}.jsonl", offset=many[-1].end))
    for members in ([wide, far], many):
        with open(tmp_path / "large.zip", "wb") as file:
            for member in members[:2]:
                file.seek(member.offset)
                file.write(header(member))
            file.seek(members[-1].end)
            end = directory(members)
            file.write(resealed(end))
        at, count = directory_place(end + bytes(COMMENT))
        assert (at, read_directory(end, count)) == (members[-1].end, members)
        with zipfile.ZipFile(tmp_path / "large.zip") as archive:
            found = [(i.filename, i.CRC, i.file_size, i.compress_size, i.header_offset) for i in archive.infolist()]
        assert found == [(each.name, each.crc, each.size, each.packed, each.offset) for each in members]


def with_manifest(folder: Path, **changes: Any) -> Manifest:
    """An export whose manifest says something else, with all the digests that follow from it."""
    manifest = read_manifest((folder / "manifest.json").read_bytes())
    manifest = replace(manifest, **changes)
    data = manifest_bytes(manifest)
    (folder / "manifest.json").write_bytes(data)
    digests = {part.name: part.sha256 for part in manifest.parts} | {"manifest.json": sha256(data).hexdigest()}
    (folder / "SHA256SUMS").write_bytes(sums_bytes(digests))
    return manifest


def test_only_files_of_the_folder_itself_are_opened(tmp_path: Path) -> None:
    """A name that leads elsewhere, or is none that we write, is a problem of the manifest; nothing is read there."""
    (tmp_path / "secret.jsonl").write_bytes(b"a secret\n")
    exported(tmp_path / "export", [make(0), make(1)])
    manifest = read_manifest((tmp_path / "export" / "manifest.json").read_bytes())
    names = ["../secret.jsonl", str(tmp_path / "secret.jsonl"), "sub/../../secret.jsonl", "", ".", "..", "a\x00b"]
    for name in [*names, "snapshots-1.jsonl", "snapshots-00001.jsonl\n", "manifest.json", "holds-00001.parquet"]:
        folder = tmp_path / "copy"
        shutil.copytree(tmp_path / "export", folder)
        part = replace(manifest.parts[0], name=name, bytes=9, sha256=sha256(b"a secret\n").hexdigest())
        with_manifest(folder, parts=[part, *manifest.parts[1:]])
        found = verify_export(folder)
        assert any("no name of a part" in each.problem for each in found.problems), name
        assert not any("bytes" in each.problem for each in found.problems if each.part == name), name
        shutil.rmtree(folder)


LOOK = """
import sys
from pathlib import Path
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.verify import verify_export

for path in sys.argv[1:]:
    try:
        print([f"{each.part}: {each.problem}" for each in verify_export(Path(path)).problems])
    except ConfigError as exc:
        print(exc)
"""


def test_nothing_but_regular_files_is_read(tmp_path: Path) -> None:
    """Pipes (that nobody writes to), links, devices, folders, sockets: told, and not waited for."""
    exported(tmp_path / "export", [make(0), make(1)])
    paths = []
    for name in ("snapshots-00001.jsonl", "manifest.json", "SHA256SUMS"):
        for kind in ("pipe", "link", "device", "folder"):
            path = tmp_path / f"{kind}-{name}"
            paths.append(path)
            shutil.copytree(tmp_path / "export", path)
            (path / name).unlink()
            if kind == "pipe":
                os.mkfifo(path / name)
            elif kind == "folder":
                (path / name).mkdir()
            else:
                (path / name).symlink_to("/dev/zero" if kind == "device" else tmp_path / "export" / name)
    os.mkfifo(tmp_path / "alone")
    paths += [tmp_path / "alone", Path("/dev/zero")]
    command = [sys.executable, "-c", LOOK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert len(told) == len(paths)
    for path, line in zip(paths, told, strict=True):
        name = path.name.partition("-")[2]
        assert f"{name}: it cannot be read" in line if name else "it is not a regular file" in line, (path, line)


def problem_of(path: Path, text: bytes | None = None) -> str:
    """The first one of an export with this manifest."""
    if text is not None:
        (path / "manifest.json").write_bytes(text)
    [problem, *_] = verify_export(path).problems
    assert problem.part == "manifest.json"
    return problem.problem


def test_manifest_is_bounded(tmp_path: Path) -> None:
    """One of 10 GB, of a hundred thousand levels, of numbers without end, of NaN: told at once."""
    exported(tmp_path / "export", [make(0), make(1)])
    good = (tmp_path / "export" / "manifest.json").read_bytes()
    os.truncate(tmp_path / "export" / "manifest.json", 10_000_000_000)
    assert "10,000,000,000 bytes, more than the 33,554,432" in problem_of(tmp_path / "export")
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"NaN", b"", b"\xff", b"null", b'"\\ud800"', b"[]"):
        assert "it cannot be read" in problem_of(tmp_path / "export", text)
    fields = json.loads(good)
    for key, value in (("format", 1e400), ("runs", "9" * 5000), ("counts", []), ("parts", {}), ("began_at", 10**30)):
        assert problem_of(tmp_path / "export", json.dumps({**fields, key: value}).encode())
    for lie in ({"bytes": -1}, {"rows": -5}, {"bytes": 10**30}):
        shutil.copytree(tmp_path / "export", tmp_path / "copy")
        (tmp_path / "copy" / "manifest.json").write_bytes(good)
        parts = read_manifest(good).parts
        with_manifest(tmp_path / "copy", parts=[replace(parts[0], **lie), *parts[1:]])
        assert verify_export(tmp_path / "copy").problems
        shutil.rmtree(tmp_path / "copy")


def hundred_mebibytes() -> bytes:
    """Deflated they are a hundred kilobytes."""
    return packed(bytes(100 * 1024 * 1024))


def looked_at(path: Path) -> tuple[ExportVerification, int]:
    """What is found, and the most memory that it took."""
    tracemalloc.start()
    try:
        return verify_export(path), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "snapshots-00001.jsonl"])
@pytest.mark.parametrize("is_honest", [True, False])
def test_no_more_is_inflated_than_was_said(tmp_path: Path, name: str, is_honest: bool) -> None:
    """A member of a hundred mebibytes, whether the ZIP file admits it or says that it is small."""
    out = tmp_path / "export.zip"
    exported(out, [make(0), make(1)], "zip")
    parts = parts_in(out.read_bytes())
    told = {member.name: 100 * 1024 * 1024 if is_honest else member.size for member, _ in parts}
    bomb = hundred_mebibytes()
    out.write_bytes(assembled([(replace(m, size=told[name]), bomb) if m.name == name else (m, d) for m, d in parts]))
    found, memory = looked_at(out)
    assert [(each.part, "more" in each.problem) for each in found.problems][:1] == [(name, True)]
    assert memory < 20 * 1024 * 1024


async def test_import_unpacks_nothing_that_has_no_room(tmp_path: Path) -> None:
    """Exabytes, as manifest and ZIP file say both, are refused before anything is written."""
    exported(tmp_path / "export", [make(0), make(1)])
    exported(tmp_path / "export.zip", [make(0), make(1)], "zip")
    parts = parts_in((tmp_path / "export.zip").read_bytes())
    said = read_manifest((tmp_path / "export" / "manifest.json").read_bytes()).parts
    large = [replace(part, bytes=2**60) if part.name == "snapshots-00001.jsonl" else part for part in said]
    with_manifest(tmp_path / "export", parts=large, form="zip")
    for name in ("manifest.json", "SHA256SUMS"):
        part = part_of(name, (tmp_path / "export" / name).read_bytes())
        parts = [part if member.name == name else (member, data) for member, data in parts]
    parts = [(replace(m, size=2**60) if m.name == "snapshots-00001.jsonl" else m, data) for m, data in parts]
    (tmp_path / "export.zip").write_bytes(assembled(parts))
    async with open_source(f"export://{tmp_path}/export.zip") as source:
        with pytest.raises(ConfigError, match=r"bytes, .* are free"):
            await anext(aiter(source.iter_snapshots()))


@pytest.mark.parametrize("form", ["jsonl", "zip"])
async def test_import_gives_what_was_verified_or_nothing(tmp_path: Path, form: str) -> None:
    """An export that is replaced by another true one after it was verified is told, and nothing of it is read."""
    for name, state in (("export", "true"), ("other", "fals")):
        exported(tmp_path / name, [make(at, context={"state": state}) for at in range(4)], form)
    async with open_source(f"export://{tmp_path}/export") as source:
        assert [each async for each in source.saga_ids()]
        if form == "zip":
            shutil.copy(tmp_path / "other", tmp_path / "export")
            assert {each.context["state"] async for each in source.iter_snapshots()} == {"true"}
            return
        for name in ("snapshots-00001.jsonl", "snapshots-00002.jsonl"):
            shutil.copy(tmp_path / "other" / name, tmp_path / "export" / name)
        with pytest.raises(AlteredExport, match="altered after it had been verified"):
            await anext(aiter(source.iter_snapshots()))
        (tmp_path / "export" / "snapshots-00001.jsonl").unlink()
        with pytest.raises(AlteredExport, match="cannot be read"):
            await anext(aiter(source.iter_snapshots()))


@pytest.mark.parametrize("text", [b"{}\n", b"\n", b"x\n", b'{"snapshot_id":"1"}\n', b"no end"])
async def test_import_refuses_lines_that_are_none_of_an_export(tmp_path: Path, text: bytes) -> None:
    """Though the manifest vouches for them."""
    exported(tmp_path / "export", [make(0), make(1)])
    path = tmp_path / "export" / "snapshots-00002.jsonl"
    data = path.read_bytes() + text
    path.write_bytes(data)
    manifest = read_manifest((tmp_path / "export" / "manifest.json").read_bytes())
    rows = data.count(b"\n")
    changed = {"bytes": len(data), "rows": rows, "sha256": sha256(data).hexdigest()}
    parts = [replace(part, **changed) if part.name == path.name else part for part in manifest.parts]
    counts = replace(manifest.counts, exported=rows + 1, found=rows + 1, left_out={})
    with_manifest(tmp_path / "export", parts=parts, counts=counts)
    async with open_source(f"export://{tmp_path}/export") as source:
        with pytest.raises(AlteredExport, match="line"):
            [each async for each in source.iter_snapshots()]


def test_draft_is_made_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """Where somebody put a link to another folder, or it is another user's, nothing is removed or written."""
    (tmp_path / "home" / "export").mkdir(parents=True)
    (tmp_path / "home" / "export" / "precious").write_text("not to be removed")
    (tmp_path / "case.partial").symlink_to(tmp_path / "home")
    with pytest.raises(ConfigError, match="cannot be written"):
        begun(tmp_path / "case")
    assert [path.name for path in (tmp_path / "home").rglob("*")] == ["export", "precious"]
    if os.geteuid() == 0:
        (tmp_path / "other.partial").mkdir()
        os.chown(tmp_path / "other.partial", 65_534, 65_534)
        with pytest.raises(ConfigError, match="of another user"):
            begun(tmp_path / "other")
    draft, _ = begun(tmp_path / "own")
    assert draft.files.parent.stat().st_mode & 0o777 == 0o700
    draft.close()
