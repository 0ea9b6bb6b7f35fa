"""Whether an export is as it was made: every file against the manifest, the manifest against its signature; blocking.

It needs the files alone, and for a signature the package `cryptography`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sagaz_tiering.exports.files import UNREADABLE, ExportFiles, open_files, read_whole
from sagaz_tiering.exports.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    SIGNATURE,
    SUMS,
    AlteredExport,
    ExportPart,
    Manifest,
    is_name_of_part,
    problems_of,
    read_manifest,
    sums_bytes,
)
from sagaz_tiering.exports.signing import SIGNATURE_BYTES, is_signed_by, public_key_in
from sagaz_tiering.exports.stock import Stock
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
