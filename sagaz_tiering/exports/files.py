"""The files of an export as they lie there: a folder, or a ZIP file with its seal; only read, blocking."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.finish import SEAL, SEAL_LENGTH, seal_of
from sagaz_tiering.exports.manifest import MANIFEST, AlteredExport

UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError)
"""What reading a damaged file raises."""
_MOST = 256 * 1024 * 1024


class ExportFiles(Protocol):
    """Files by name."""

    def names(self) -> set[str]:
        """All that is there."""

    def open(self, name: str) -> BinaryIO:
        """One of them."""

    def seal_problem(self) -> str | None:
        """Why what holds them is not as it was written; None if it is, or has no bytes of its own."""


class FilesInFolder:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> set[str]:
        """All that is there."""
        return {entry.name for entry in os.scandir(self._folder)}

    def open(self, name: str) -> BinaryIO:
        """A regular file of it; a symbolic link is none."""
        return open(self._folder / name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW))

    def seal_problem(self) -> str | None:
        """A folder has no bytes of its own."""
        return None


class FilesInZip:
    """A ZIP file."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        self._file, self._archive = file, archive

    def names(self) -> set[str]:
        """All that is there."""
        return set(self._archive.namelist())

    def open(self, name: str) -> BinaryIO:
        """A member."""
        return cast(BinaryIO, self._archive.open(name))

    def seal_problem(self) -> str | None:
        """Whether all its bytes have the digest that it ends with."""
        self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - SEAL_LENGTH))
        end = self._file.read()
        if end != SEAL + seal_of(self._file).encode():
            return "the ZIP file is not as it was written: its bytes do not have the digest that it ends with"
        return None


@contextmanager
def open_files(path: Path) -> Iterator[ExportFiles]:
    """The files of the export at `path`. Raises ConfigError where nothing is, AlteredExport for no export."""
    if path.is_dir():
        if not (path / MANIFEST).exists():
            raise AlteredExport(f"{path} is not a complete export: there is none", part=MANIFEST)
        yield FilesInFolder(path)
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror or exc}", hint="give a folder or a ZIP file") from exc
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except UNREADABLE as exc:
            raise AlteredExport(f"{path} is not a whole ZIP file: {exc}") from exc
        with archive:
            yield FilesInZip(file, archive)


def read_whole(files: ExportFiles, name: str) -> bytes:
    """All of a small file. Raises AlteredExport."""
    try:
        with files.open(name) as file:
            data = file.read(_MOST + 1)
    except UNREADABLE as exc:
        raise AlteredExport(f"it cannot be read: {exc}", part=name) from exc
    if len(data) > _MOST:
        raise AlteredExport("it is larger than any that is written", part=name)
    return data
