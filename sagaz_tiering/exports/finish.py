"""The last step of an export: manifest, signature and sums beside its parts, and all of it to its place; blocking."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.exports.draft import Draft, writing
from sagaz_tiering.exports.manifest import MANIFEST, SIGNATURE, SUMS, Manifest, manifest_bytes, sums_bytes
from sagaz_tiering.exports.parts import flush_folder, new_file
from sagaz_tiering.exports.signing import Signer

SEAL: Final = b"sha256:"
SEAL_LENGTH: Final = len(SEAL) + 64
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def finish(draft: Draft, manifest: Manifest, signer: Signer | None, *, overwrite: bool) -> str:
    """Bring the export to its place, and discard the draft; the SHA-256 of its manifest.

    Raises ConfigError where the disk does not take it, or something came to its place meanwhile.
    """
    data = manifest_bytes(manifest)
    digest = sha256(data).hexdigest()
    digests = {part.name: part.sha256 for part in manifest.parts} | {MANIFEST: digest}
    with writing(draft.out):
        _write(draft.files / MANIFEST, data)
        if signer is not None:
            signature = signer.sign(data)
            _write(draft.files / SIGNATURE, signature)
            digests[SIGNATURE] = sha256(signature).hexdigest()
        _write(draft.files / SUMS, sums_bytes(digests))
        flush_folder(draft.files)
        whole = draft.files
        if manifest.form == "zip":
            whole = _zipped(draft.files, [*sorted(digests), SUMS])
        _put(whole, draft.out, manifest.export_id, overwrite=overwrite)
    draft.discard()
    return digest


def _write(path: Path, data: bytes) -> None:
    with new_file(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _zipped(folder: Path, names: list[str]) -> Path:
    """These files in one ZIP file beside the folder. Its comment is the SHA-256 of all bytes before it.

    The parts themselves can be inflated from bytes that were altered (a deflated stream has bits that mean nothing).
    """
    path = folder.with_suffix(".zip")
    with new_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.comment = SEAL + b"0" * 64
        for name in names:
            about = zipfile.ZipInfo(name, _EPOCH)
            about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
            about.file_size = (folder / name).stat().st_size
            with open(folder / name, "rb") as part, archive.open(about, "w") as member:
                shutil.copyfileobj(part, member, 1024 * 1024)
    with open(path, "r+b") as file:
        seal = seal_of(file)
        file.seek(-64, os.SEEK_END)
        file.write(seal.encode())
        file.flush()
        os.fsync(file.fileno())
    return path


def seal_of(file: Any) -> str:
    """The SHA-256 of a ZIP file without the last 64 bytes."""
    left, digest = file.seek(0, os.SEEK_END) - 64, sha256()
    file.seek(0)
    while left > 0 and (data := file.read(min(left, 1024 * 1024))):
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


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
