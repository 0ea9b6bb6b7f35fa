"""The last step of an export: manifest, signature and sums beside its parts, and all of it to its place; blocking."""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from sagaz_tiering.drivers.files import flush_file, flush_folder, new_file, write_file
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.draft import Draft, writing
from sagaz_tiering.exports.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    SIGNATURE,
    SUMS,
    Manifest,
    manifest_bytes,
    sums_bytes,
)
from sagaz_tiering.exports.signing import Signer
from sagaz_tiering.exports.zip_form import SEAL, Member, comment, directory, header, in_order, sealed

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
