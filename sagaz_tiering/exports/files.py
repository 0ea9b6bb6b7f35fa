"""The files of an export as they lie there: a folder, or a ZIP file with its seal; only read, blocking.

Whoever made them may be hostile: only regular files are opened, by names that parts of an export may have, and no more
is read or inflated than was said before.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sagaz_tiering.drivers.files import refusing
from sagaz_tiering.exports.manifest import MANIFEST, AlteredExport
from sagaz_tiering.exports.zip_form import (
    COMMENT,
    MAX_DIRECTORY,
    SEAL,
    TAIL,
    Member,
    comment,
    directory_place,
    header,
    read_directory,
    sealed,
    signature_in,
)

UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a damaged file raises."""
MAX_NAMES = 100_000
_READ_AT_ONCE = 256 * 1024


class OpenPart(NamedTuple):
    """A file that is open: how many bytes it says it has, and what gives so many of the next ones, as `read` does."""

    size: int
    read: Callable[[int], bytes]


class Seal(NamedTuple):
    """What a ZIP file ends with: why it is not the digest of its bytes (None if it is), and the digest's signature."""

    problem: str | None
    signed: bytes
    signature: bytes


class FilesInFolder:
    """Files by name, in a folder. `open` closes the one before; it raises AlteredExport, and UNREADABLE from `read`
    too."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def names(self) -> set[str]:
        """All that is there, of very many only some."""
        with os.scandir(self._folder) as entries:
            return {entry.name for entry in islice(entries, MAX_NAMES)}

    def open(self, name: str) -> OpenPart:
        """A regular file of it; a symbolic link is none."""
        self._close_file()
        self._file = _regular_file(name, os.O_NOFOLLOW, self._folder)
        return OpenPart(os.fstat(self._file.fileno()).st_size, self._file.read)

    def seal(self) -> Seal | None:
        """A folder has no bytes of its own."""
        return None

    def close(self) -> None:
        """Of the folder, which it was given open, and of the file that was opened last."""
        self._close_file()
        os.close(self._folder)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()


class FilesInZip:
    """The same in a ZIP file."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises AlteredExport for one that is not laid out as an export is."""
        self._file = file.fileno()
        self._size = os.fstat(self._file).st_size
        end = max(0, self._size - COMMENT)
        at, count = directory_place(self._read(max(0, self._size - TAIL), self._size))
        if not 0 <= end - at <= MAX_DIRECTORY:
            raise AlteredExport("the directory of the ZIP file is not where its end says")
        self._members = {member.name: member for member in read_directory(self._read(at, end), count)}

    def names(self) -> set[str]:
        """All that is there."""
        return set(self._members)

    def open(self, name: str) -> OpenPart:
        """A member."""
        member = self._members.get(name)
        if member is None:
            raise AlteredExport("it is not in the ZIP file", part=name)
        if self._read(member.offset, member.at) != header(member):
            raise AlteredExport("its header in the ZIP file is not the one that the directory has", part=name)
        return OpenPart(member.size, _Inflated(self._file, member).read)

    def seal(self) -> Seal | None:
        """Whether all its bytes have the digest that it ends with."""
        end = self._read(max(0, self._size - COMMENT), self._size)
        digest, at = sha256(), 0
        while data := self._read(at, min(at + _READ_AT_ONCE, self._size - COMMENT + len(SEAL))):
            digest.update(data)
            at += len(data)
        seal, signature = digest.hexdigest(), signature_in(end)
        problem = "the ZIP file is not as it was written: its bytes do not have the digest that it ends with"
        return Seal(None if end == comment(seal, signature) else problem, sealed(seal), signature)

    def _read(self, start: int, end: int) -> bytes:
        return os.pread(self._file, max(0, end - start), start)


ExportFiles = FilesInFolder | FilesInZip


class _Inflated:
    """The bytes of a member: just as many as it says, of just the bytes that it has."""

    def __init__(self, file: int, member: Member) -> None:
        self._file, self._member = file, member
        self._place = member.at
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._size = self._crc = 0

    def read(self, most: int) -> bytes:
        """Raises AlteredExport, zlib.error, EOFError."""
        data, member = b"", self._member
        while not data and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._packed()
            data = self._inflater.decompress(packed, min(most, member.size - self._size + 1))
            if not packed and not data:
                raise EOFError("its deflated bytes end too early")
        self._size, self._crc = self._size + len(data), zlib.crc32(data, self._crc)
        if self._size > member.size:
            raise AlteredExport("it has more bytes than the ZIP file says", part=member.name)
        if not data and (self._size, self._crc) != (member.size, member.crc):
            raise AlteredExport("it has not the size and the CRC-32 that the ZIP file says", part=member.name)
        if not data and (self._inflater.unused_data or self._place < member.end):
            raise AlteredExport("it has bytes in the ZIP file that mean nothing", part=member.name)
        return data

    def _packed(self) -> bytes:
        packed = os.pread(self._file, min(_READ_AT_ONCE, self._member.end - self._place), self._place)
        self._place += len(packed)
        return packed


@contextmanager
def open_files(path: Path) -> Iterator[ExportFiles]:
    """The files of the export at `path`. Raises ConfigError where nothing is, AlteredExport for no export."""
    with refusing(f"{path} cannot be read", "give a folder or a ZIP file"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY) if path.is_dir() else None
        file = _regular_file(path) if folder is None else None
    if file is not None:
        with file:
            yield FilesInZip(file)
    elif folder is not None:
        with closing(FilesInFolder(folder)) as files:
            if not os.path.lexists(path / MANIFEST):
                raise AlteredExport(f"{path} is not a complete export: there is none", part=MANIFEST)
            yield files


def read_whole(files: ExportFiles, name: str, most: int) -> bytes:
    """All of a small file. Raises AlteredExport, for one of more than `most` bytes before it is read."""
    try:
        size, read = files.open(name)
        data = b""
        if size <= most:
            while more := read(most + 1 - len(data)):
                data += more
    except UNREADABLE as exc:
        raise AlteredExport(f"it cannot be read: {exc}", part=name) from exc
    if max(size, len(data)) > most:
        raise AlteredExport(
            f"it has {max(size, len(data)):,} bytes, more than the {most:,} that it may have", part=name
        )
    return data


def read_at(path: Path, place: int, size: int) -> bytes:
    """So many bytes of a file from there on, or as many as it has. Raises OSError."""
    with _regular_file(path, os.O_NOFOLLOW) as file:
        file.seek(place)
        return file.read(size)


def _regular_file(path: str | Path, flags: int = 0, folder: int | None = None) -> BinaryIO:
    """Open to be read. Raises OSError for anything else than a regular file, of which nothing is waited for."""

    def opened(name: str, how: int) -> int:
        return os.open(name, how | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)

    file = open(path, "rb", opener=opened)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file
