"""An export while it is made, in the folder `OUT.partial` beside its place; blocking.

    OUT.partial/selection       the sagas that are exported, 16 bytes each, ascending: chosen once, at the beginning
    OUT.partial/progress.json   which parts are complete, and up to which saga they reach; replaced as a whole
    OUT.partial/export/         the parts, later the manifest

Order of writes, and what a kill leaves: the parts of a round are written and flushed, then `progress.json` names them;
what it does not name is removed and done again. At the end manifest, signature and sums are flushed, then the folder is
renamed to its place (or put into a ZIP file that is), which is the only moment at which something is there; then the
draft is removed. What stands at the place is never replaced unless that is asked for, and then only at that moment.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from sagaz_tiering.drivers.files import (
    flush_file,
    flush_folder,
    new_file,
    refusing,
    replace_file,
    take_lock,
    write_file,
)
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    MAX_PARTS,
    SIGNATURE,
    SUMS,
    ExportCounts,
    ExportPart,
    LeftOutSnapshot,
    Manifest,
    RowKind,
    Signer,
    manifest_bytes,
    sums_bytes,
)
from sagaz_tiering.exports.parts import PartFile, Row, digest_of
from sagaz_tiering.exports.zip_form import SEAL, Member, comment, directory, header, in_order, sealed
from sagaz_tiering.terminal import document

_FORMAT: Final = 1
_ID: Final = 16
_PAGE: Final = 1_000


@dataclass(slots=True, kw_only=True)
class DraftState:
    """How far an export is: everything up to the saga `mark` is in the parts and in the counts."""

    fingerprint: str
    export_id: UUID
    began_at: datetime
    mark: UUID | None = None
    rounds: int = 0
    runs: int = 1
    counts: ExportCounts = field(default_factory=ExportCounts)
    left_out: list[LeftOutSnapshot] = field(default_factory=list)
    parts: list[ExportPart] = field(default_factory=list)
    policy_revisions: list[str] = field(default_factory=list)


_STATE: Final = TypeAdapter(DraftState)


class Draft:
    """One export that is being made. Only one process at a time has it open."""

    def __init__(self, out: Path, form: str) -> None:
        self.out = out
        self._form = form
        self._folder = out.with_name(f"{out.name}.partial")
        self.files = self._folder / "export"
        self._progress = self._folder / "progress.json"
        self._selection = self._folder / "selection"
        self._lock = -1
        self._open: dict[RowKind, PartFile] = {}

    def begin(self, new: DraftState, *, restart: bool, overwrite: bool) -> DraftState:
        """Where it stands: `new`, or what a run before left of the same export. Parts that are not whole are removed.

        Raises ConfigError where something is at its place (unless `overwrite`), or a draft of another export is beside
        it (unless `restart`), LeaseLost if another process is at it.
        """
        self._check_place(overwrite)
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._take()
                self.files.mkdir(exist_ok=True, mode=0o700)
                if restart:
                    self._remove(self._selection, self._progress)
                state = self._read(new)
                whole = {part.name for part in state.parts}
                self._remove(*(file for file in self.files.iterdir() if file.name not in whole))
            except BaseException:
                self.close()
                raise
        return state

    def close(self) -> None:
        """Leave it as it is, for a later run."""
        for part in self._open.values():
            part.abandon()
        self._open = {}
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def selected(self) -> int | None:
        """How many sagas are exported; None while that is not decided."""
        return self._selection.stat().st_size // _ID if self._selection.exists() else None

    def select(self, page: Sequence[bytes]) -> None:
        """The next sagas, ascending; `select_done` ends it."""
        with writing(self._folder), open(self._choosing, "ab") as file:
            file.write(b"".join(page))

    def select_anew(self) -> None:
        """Begin the selection."""
        with writing(self._folder):
            new_file(self._choosing).close()

    def select_done(self) -> None:
        """The selection is whole."""
        with writing(self._folder):
            with open(self._choosing, "rb") as file:
                flush_file(file)
            self._choosing.rename(self._selection)
            flush_folder(self._folder)

    @property
    def _choosing(self) -> Path:
        return self._folder / "selection.new"

    def sagas(self, after: UUID | None, at: int) -> tuple[list[UUID], int]:
        """The next sagas behind `after`, read from position `at` on, and the position behind them."""
        with open(self._selection, "rb") as file:
            file.seek(at)
            data = file.read(_PAGE * _ID)
        found = [UUID(bytes=data[start : start + _ID]) for start in range(0, len(data), _ID)]
        return [saga for saga in found if after is None or saga > after], at + len(data)

    def chosen(self, sagas: Iterable[UUID]) -> set[UUID]:
        """Those of these that are exported."""
        with open(self._selection, "rb") as file:
            return {saga for saga in sagas if _is_in(file, saga.bytes, self.selected or 0)}

    def add(self, rows: Sequence[Row], number: int) -> None:
        """Write rows into the parts of round `number`."""
        with writing(self._folder):
            for row in rows:
                part = self._open.get(row.kind)
                if part is None:
                    name = f"{row.kind}-{number:05}.{'parquet' if self._form == 'parquet' else 'jsonl'}"
                    part = self._open[row.kind] = PartFile(self.files / name, row.kind)
                part.add(row)

    def complete(self, state: DraftState) -> None:
        """The open parts are whole, and in `state`, which a later run begins with."""
        with writing(self._folder):
            if len(state.parts) + len(self._open) > MAX_PARTS:
                raise ConfigError(
                    f"it would have more than {MAX_PARTS:,} parts, and nothing reads such an export",
                    hint="export it in several, such as by --from and --until",
                )
            state.parts += [part.finish() for part in self._open.values()]
            self._open = {}
            state.rounds += 1
            flush_folder(self.files)
            self.keep(state)

    def keep(self, state: DraftState) -> None:
        """Have a later run begin with this."""
        with writing(self._folder):
            replace_file(self._progress, json.dumps({"format": _FORMAT, **document(state)}, indent=1).encode())

    def discard(self) -> None:
        """The export is at its place: nothing of the draft is needed any more."""
        self.close()
        with suppress(OSError):
            shutil.rmtree(self._folder)

    def _check_place(self, overwrite: bool) -> None:
        is_empty_folder = self.out.is_dir() and not any(self.out.iterdir())
        is_free = not self.out.exists() or (self._form != "zip" and is_empty_folder)
        is_taken = self.out.is_symlink() or not is_free
        if is_taken and not overwrite:
            raise ConfigError(
                f"{self.out} is there already; nothing was written",
                hint="give another --out, or replace it with --overwrite (once the new one is complete)",
            )

    def _take(self) -> None:
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        if os.fstat(self._lock).st_uid != os.geteuid():
            raise ConfigError(f"{self._folder} is of another user; nothing was written", hint="give another --out")
        take_lock(self._lock, f"another process makes this export (it holds {self._folder})")

    def _read(self, new: DraftState) -> DraftState:
        try:
            fields = json.loads(self._progress.read_bytes())
            if fields.pop("format") != _FORMAT:
                raise ValueError("it is of another version")
            state = _STATE.validate_python(fields)
        except FileNotFoundError:
            self._remove(self._selection)
            return new
        except (ValueError, KeyError, AttributeError) as exc:
            reason = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else exc
            raise ConfigError(
                f"{self._progress} does not say how far an export is: {reason}", hint="begin anew with --restart"
            ) from exc
        if state.fingerprint != new.fingerprint:
            raise ConfigError(
                f"{self._folder} is the draft of another export (of other sagas, another store or form)",
                hint="give another --out, or begin anew with --restart",
            )
        for part in state.parts:
            if digest_of(self.files / part.name) != (part.bytes, part.sha256):
                raise ConfigError(
                    f"{self.files / part.name} is not as it was written", hint="begin anew with --restart"
                )
        state.runs += 1
        return state

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            path.unlink(missing_ok=True)


def writing(place: Path) -> AbstractContextManager[None]:
    """What a disk refuses within the block becomes a ConfigError that says what to do."""
    hint = "make room, or give another --out; the same command goes on from where it stands"
    return refusing(f"the export cannot be written to {place}", hint)


def fingerprint(asked_for: dict[str, Any], source: dict[str, str], form: str) -> str:
    """32 hex digits that two runs of the same export share."""
    told = json.dumps([asked_for, source, form], sort_keys=True)
    return sha256(told.encode()).hexdigest()[:32]


def _is_in(file: BinaryIO, wanted: bytes, ids: int) -> bool:
    def found(at: int) -> bytes:
        file.seek(at * _ID)
        return file.read(_ID)

    at = bisect_left(range(ids), wanted, key=found)
    return at < ids and found(at) == wanted


_LEVEL: Final = 6
_READ_AT_ONCE: Final = 1024 * 1024


def finish(draft: Draft, manifest: Manifest, signer: Signer | None, *, overwrite: bool) -> str:
    """Bring the export to its place, and discard the draft; the SHA-256 of its manifest.

    Raises ConfigError where the disk does not take it, or something came to its place meanwhile.
    """
    data = manifest_bytes(manifest)
    if len(data) > MAX_MANIFEST:
        raise ConfigError(
            f"its manifest would have {len(data):,} bytes, and nothing reads one of more than {MAX_MANIFEST:,}",
            hint="give a shorter --who and fewer filters, and begin anew with --restart",
        )
    digest = sha256(data).hexdigest()
    digests = {part.name: part.sha256 for part in manifest.parts} | {MANIFEST: digest}
    with writing(draft.out):
        write_file(draft.files / MANIFEST, data)
        if signer is not None:
            signature = signer.sign(data)
            write_file(draft.files / SIGNATURE, signature)
            digests[SIGNATURE] = sha256(signature).hexdigest()
        write_file(draft.files / SUMS, sums_bytes(digests))
        flush_folder(draft.files)
        whole = draft.files
        if manifest.form == "zip":
            whole = _zipped(draft.files, [*digests, SUMS], signer)
        _put(whole, draft.out, manifest.export_id, overwrite=overwrite)
    draft.discard()
    return digest


def _zipped(folder: Path, names: Iterable[str], signer: Signer | None) -> Path:
    """These files in one ZIP file beside the folder."""
    path = folder.with_suffix(".zip")
    with new_file(path) as file:
        members = [_add(file, folder / name) for name in in_order(names)]
        file.write(directory(members) + SEAL)
    with open(path, "r+b") as file:
        seal = file_digest(file, "sha256").hexdigest()
        file.seek(-len(SEAL), os.SEEK_END)
        file.write(comment(seal, None if signer is None else signer.sign(sealed(seal))))
        flush_file(file)
    return path


def _add(file: BinaryIO, path: Path) -> Member:
    """One file as the next member."""
    crc, packer = 0, zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    with open(path, "rb") as part:
        member = Member(name=path.name, crc=0, size=os.fstat(part.fileno()).st_size, packed=0, offset=file.tell())
        file.write(header(member))
        while data := part.read(_READ_AT_ONCE):
            crc = zlib.crc32(data, crc)
            file.write(packer.compress(data))
    file.write(packer.flush())
    member = replace(member, crc=crc, packed=file.tell() - member.at)
    file.seek(member.offset)
    file.write(header(member))
    file.seek(member.end)
    return member


def _put(whole: Path, out: Path, export_id: UUID, *, overwrite: bool) -> None:
    """One rename; what is replaced stands aside until it is done."""
    aside = out.with_name(f"{out.name}.replaced-{export_id}")
    if overwrite and (out.exists() or out.is_symlink()):
        out.rename(aside)
    try:
        if out.is_file():
            raise FileExistsError(errno.EEXIST, "something came to its place meanwhile")
        whole.rename(out)  # a folder is refused where another one has something in it
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
    flush_folder(out.parent)
    if aside.is_symlink() or aside.is_file():
        aside.unlink()
    elif aside.exists():
        shutil.rmtree(aside)
