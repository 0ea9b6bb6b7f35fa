"""Whether an export is as it was made: every file against the manifest, the manifest against its signature; blocking.

It needs the files alone, and for a signature the package `cryptography`. What is in an export and where can be noted
meanwhile: what is read later is what was verified. A page is some lines of one saga (or a replay record) that lie
beside each other, with the SHA-256 of their bytes: whoever alters a part between its verification and its reading is
seen.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from sqlite3 import Connection
from typing import Any, BinaryIO, Final
from uuid import UUID

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.files import UNREADABLE, ExportFiles, open_files, read_at, read_whole
from sagaz_tiering.exports.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    SIGNATURE,
    SIGNATURE_BYTES,
    SUMS,
    AlteredExport,
    ExportPart,
    Manifest,
    RowKind,
    is_name_of_part,
    is_signed_by,
    problems_of,
    public_key_in,
    read_manifest,
    sums_bytes,
)
from sagaz_tiering.storage.filesystem.files import MAX_FILE_BYTES
from sagaz_tiering.terminal import document

_READ_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportProblem:
    """A file of an export that is not as it should be (`*`: the whole), and how."""

    part: str
    problem: str


@dataclass(slots=True, kw_only=True)
class ExportVerification:
    """What was found. `proven`: what follows from it, in sentences. `signed_by`: the public key, 64 hex digits."""

    path: str
    manifest_sha256: str = ""
    manifest: Manifest | None = None
    problems: list[ExportProblem] = field(default_factory=list)
    signed_by: str | None = None
    key_was_given: bool = False

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems

    @property
    def proven(self) -> list[str]:
        """What a reader may rely on, and what not."""
        if not self.is_intact:
            return ["nothing is proven: it is not as it was made"]
        found = ["every file is the one that the manifest names, to the byte, and its counts add up"]
        if self.signed_by is None:
            found.append(
                "not proven: who made it. It has no signature, and whoever can alter a part can write another manifest "
                f"for it; compare the manifest's SHA-256 with the one that was said when it was made: "
                f"{self.manifest_sha256}"
            )
        elif not self.key_was_given:
            found.append(
                f"it is signed by the key {self.signed_by}; whose that is only --key with a key from its owner proves"
            )
        else:
            found.append(f"it was signed by the holder of the given key {self.signed_by}")
        found.append(
            "not proven: that the store held nothing else, or that its clock was right; the manifest tells what the "
            "one who made it found"
        )
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, "is_intact", "proven")


def verify_export(path: Path, *, key: Path | None = None, stock: Stock | None = None) -> ExportVerification:
    """Look at every byte of the export at `path` (a folder or a ZIP file).

    `key`: the PEM file of the public key that it must be signed with. `stock` is given all that is read of the parts,
    which it may believe once nothing is wrong.
    What is wrong is in `problems`. Raises ConfigError where nothing can be read there, or for a wrong key file.
    """
    wanted = None if key is None else public_key_in(key)
    found = ExportVerification(path=str(path), key_was_given=key is not None)
    with _noted(found), open_files(path) as files:
        manifest, digests = _look(files, found, wanted)
        if stock is not None and found.is_intact:
            stock.begin(manifest)
        for part in manifest.parts:
            if is_name_of_part(part.name):  # of another one the manifest's problems tell
                with _noted(found):
                    _look_at_part(files, part, stock if found.is_intact else None)
        _look_at_names(files, found, manifest, digests)
    return found


@contextmanager
def _noted(found: ExportVerification) -> Iterator[None]:
    try:
        yield
    except AlteredExport as exc:
        found.problems.append(ExportProblem(exc.part, str(exc)))


def _look(files: ExportFiles, found: ExportVerification, wanted: str | None) -> tuple[Manifest, dict[str, str]]:
    """The manifest, and the digests of it and of its signature."""
    if (seal := files.seal()) is not None and seal.problem is not None:
        found.problems.append(ExportProblem("*", seal.problem))
    data = read_whole(files, MANIFEST, MAX_MANIFEST)
    manifest = read_manifest(data)
    found.manifest, found.manifest_sha256 = manifest, sha256(data).hexdigest()
    found.problems += [ExportProblem(MANIFEST, each) for each in problems_of(manifest)]
    digests, key = {MANIFEST: found.manifest_sha256}, manifest.public_key
    if key is not None:
        with _noted(found):
            signature = read_whole(files, SIGNATURE, SIGNATURE_BYTES)
            digests[SIGNATURE] = sha256(signature).hexdigest()
            if not is_signed_by(key, signature, data):
                raise AlteredExport("it is not the signature of the manifest by the key named there", part=SIGNATURE)
            if seal is not None and not is_signed_by(key, seal.signature, seal.signed):
                raise AlteredExport("the ZIP file does not end with a signature of its digest by the manifest's key")
            found.signed_by = key
    elif seal is not None and any(seal.signature):
        found.problems.append(ExportProblem("*", "the ZIP file ends with a signature, and the export has none"))
    if wanted is not None and wanted != key:
        signed = "is not signed" if key is None else f"names the key {key:.80}"
        found.problems.append(ExportProblem(MANIFEST, f"it {signed}, the given key is {wanted}"))
    return manifest, digests


def _look_at_part(files: ExportFiles, part: ExportPart, stock: Stock | None) -> None:
    """Raises AlteredExport."""
    digest, size, rows = sha256(), 0, 0
    try:
        told, read = files.open(part.name)
        while told == part.bytes and size <= told and (data := read(_READ_AT_ONCE)):
            digest.update(data)
            size, rows = size + len(data), rows + data.count(b"\n")
            if stock is not None:
                stock.take(part, data)
    except UNREADABLE as exc:
        raise AlteredExport(f"it cannot be read: {exc}", part=part.name) from exc
    if (differs := size if told == part.bytes else told) != part.bytes:
        more = "more" if differs > part.bytes else "fewer"
        problem = f"it has {more} than the {part.bytes:,} bytes that the manifest says"
    elif digest.hexdigest() != part.sha256:
        problem = "its bytes do not have the SHA-256 that the manifest says"
    elif part.name.endswith(".jsonl") and rows != part.rows:
        problem = f"it has {rows:,} lines, the manifest says {part.rows:,}"
    else:
        return
    raise AlteredExport(problem, part=part.name)


def _look_at_names(files: ExportFiles, found: ExportVerification, manifest: Manifest, digests: dict[str, str]) -> None:
    expected = {part.name: part.sha256 for part in manifest.parts} | digests
    sums = sums_bytes(expected)
    with _noted(found):
        if read_whole(files, SUMS, len(sums)) != sums:
            raise AlteredExport("it is not the list of the digests that the manifest has", part=SUMS)
    signature = set() if manifest.public_key is None else {SIGNATURE}
    for name in sorted(files.names() - expected.keys() - {SUMS} - signature):
        found.problems.append(ExportProblem(name, "it is no part of the export"))


TABLES: Final = """
CREATE TABLE pages (kind TEXT, id BLOB, number INTEGER, part TEXT, place INTEGER, bytes INTEGER, digest BLOB,
                    PRIMARY KEY (kind, id, number)) WITHOUT ROWID;
"""
"""`id`: of a saga if `kind` is snapshots, of a replay record if it is replays."""
_UUID: Final = rb'"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"'
HEADS: Final = {
    RowKind.SNAPSHOTS: re.compile(rb'\{"snapshot_id":' + _UUID + rb',"saga_id":' + _UUID),
    RowKind.REPLAYS: re.compile(rb'\{"replay_id":' + _UUID),
}
"""How lines begin; the last id is that of their page."""
_LINES, _BYTES = 100, 1024 * 1024


class Stock:
    """Is given what is read of an export while it is verified, so that nothing is read a second time.

    Fills `pages`, and unpacks what they are of into `folder` (None: it lies in one already).
    """

    def __init__(self, db: Connection, folder: Path | None) -> None:
        self._db, self._folder = db, folder
        self._part: ExportPart | None = None
        self._copy: BinaryIO | None = None
        self._begun = bytearray()
        self._id, self._page, self._number, self._place = b"", list[bytes](), 0, 0

    def begin(self, manifest: Manifest) -> None:
        """Nothing is wrong with the manifest; its parts follow. Raises ConfigError for Parquet, and where there is no
        room to unpack it."""
        if manifest.form == "parquet":
            raise ConfigError("a Parquet export is not read back", hint="export it as jsonl or zip")
        if self._folder is not None:
            needed, free = sum(part.bytes for part in manifest.parts), shutil.disk_usage(self._folder).free
            if needed > free:
                raise self._no_room(f"it takes {needed:,} bytes, {free:,} are free")

    def take(self, part: ExportPart, data: bytes) -> None:
        """The next bytes of a part. Raises AlteredExport for a line that is none of an export, ConfigError where there
        is no room."""
        if part.kind not in HEADS:
            return
        if part is not self._part:
            self.finish()
            self._part, self._place = part, 0
        try:
            if self._folder is not None:
                self._copy = self._copy or open(self._folder / part.name, "wb")  # noqa: SIM115  # `close` does
                self._copy.write(data)
        except OSError as exc:
            raise self._no_room(exc.strerror or str(exc)) from exc
        end = data.rfind(b"\n") + 1
        if end:
            for line in io.BytesIO(self._begun + data[:end]):
                self._add(part, line)
            self._begun.clear()
        self._begun += data[end:]
        if len(self._begun) > MAX_FILE_BYTES:
            raise AlteredExport("it has a line that is longer than any of an export", part=part.name)

    def finish(self) -> None:
        """The part is whole. Raises AlteredExport if its last line is not."""
        if self._part is not None:
            self._put(self._part)
            if self._begun:
                raise AlteredExport("its last line does not end", part=self._part.name)
        self.close()

    def close(self) -> None:
        """The copy that is being written."""
        if self._copy is not None:
            self._copy.close()
        self._copy = None

    def _add(self, part: ExportPart, line: bytes) -> None:
        head = HEADS[part.kind].match(line)
        if head is None:
            raise AlteredExport("it has a line that is not one of an export", part=part.name)
        found = UUID(head[head.re.groups].decode()).bytes
        if found != self._id or len(self._page) == _LINES or sum(map(len, self._page)) >= _BYTES:
            self._put(part)
        self._id = found
        self._page.append(line)

    def _put(self, part: ExportPart) -> None:
        if self._page:
            data = b"".join(self._page)
            row = (part.kind.value, self._id, self._number, part.name, self._place, len(data), sha256(data).digest())
            self._db.execute("INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._place, self._number, self._page = self._place + len(data), self._number + 1, []

    def _no_room(self, why: str) -> ConfigError:
        hint = "make room, or set TMPDIR to a folder that has some"
        return ConfigError(f"the export cannot be unpacked into {self._folder}: {why}", hint=hint)


def lines_of(folder: Path, part: str, place: int, size: int, digest: bytes) -> list[bytes]:
    """The lines of a page. Raises AlteredExport if they are not those that were verified."""
    try:
        data = read_at(folder / part, place, size)
    except UNREADABLE as exc:
        raise AlteredExport(f"it cannot be read: {exc}", part=part) from exc
    if sha256(data).digest() != digest:
        raise AlteredExport("it was altered after it had been verified", part=part)
    return io.BytesIO(data).readlines()
