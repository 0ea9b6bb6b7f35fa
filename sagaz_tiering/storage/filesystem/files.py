"""One directory at a time, blocking: regular files only, replaced whole, durable when a call says so.

Symbolic links are never followed below the base directory, and nothing but regular files is read: what else lies
in a directory is another's. Everything raises OSError as the system does; `translated` is the one place where that
becomes an error of ours.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sagaz_tiering.errors import CorruptRecord, LocalStorageUnavailable

MAX_FILE_BYTES: Final = 2**30
"""Largest file that is read: no snapshot is that large, whatever its form."""

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not block the opening
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ID_CHARS: Final = 36

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MEANS: Final = (
    (
        FULL,
        "; nothing was stored, what was stored before is intact",
        "make room on the filesystem of {base} (or raise the quota or file size limit of this process); "
        "enable_compression=True and delete_expired_snapshots() save space",
    ),
    (REFUSED, "", "let this user read, write and enter the directories below {base}"),
    (
        {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ESTALE},
        ", where the directory of a snapshot storage belongs",
        "mount the volume of {base}, correct base_path, or move away what is in the way",
    ),
    ({errno.EMFILE, errno.ENFILE}, "", "raise the limit of open files (ulimit -n) of this process"),
)
"""Errors of the system, what they mean, and what to do."""


class FileState(NamedTuple):
    """Changes whenever a file is replaced or written: equal states mean the same bytes."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class Folder:
    """An open directory; `path` is for messages only."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def state(self, name: str) -> FileState | None:
        """Of a regular file; None for anything else."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return FileState.of(status) if stat.S_ISREG(status.st_mode) else None

    def read(self, name: str) -> bytes:
        """A regular file's bytes; FileNotFoundError for anything else.

        Raises CorruptRecord for what the disk cannot give any more: one record is lost, the storage is not down.
        """
        try:
            with open(os.open(name, _READ, dir_fd=self._fd), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise FileNotFoundError(errno.ENOENT, "not a regular file", str(self.path / name))
                if status.st_size > MAX_FILE_BYTES:
                    raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES} bytes")
                return file.read()
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
                raise FileNotFoundError(errno.ENOENT, "not a regular file", str(self.path / name)) from exc
            if exc.errno in (errno.EIO, errno.EFBIG):
                raise CorruptRecord(f"{self.path / name} cannot be read: {exc.strerror}") from exc
            raise

    @contextmanager
    def replacing(self, name: str, data: bytes, *, durable: bool) -> Iterator[FileState]:
        """A whole new file under `name` after the block, and the old one until then, or if the block fails.

        The bytes are durable before the block, the name after it. One writer at a time for one id.
        """
        temporary = f".{name[:_ID_CHARS]}.tmp"
        fd = os.open(temporary, _WRITE, 0o600, dir_fd=self._fd)
        try:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                if durable:
                    os.fsync(fd)
                state = FileState.of(os.fstat(fd))
            finally:
                os.close(fd)
            yield state
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            with suppress(OSError):
                self.unlink(temporary)
            raise
        if durable:
            self.sync()

    def replace(self, name: str, data: bytes, *, durable: bool) -> None:
        """`replacing` at once."""
        with self.replacing(name, data, durable=durable):
            pass

    def touch(self, name: str) -> None:
        """Make an empty file that is not there."""
        os.close(os.open(name, _WRITE, 0o600, dir_fd=self._fd))

    def unlink(self, name: str) -> bool:
        """Whether there was such a file."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def sync(self) -> None:
        """Make names durable."""
        os.fsync(self._fd)

    def files(self) -> Iterator[tuple[str, FileState]]:
        """Regular files, in no order. What is renamed meanwhile may be missed or seen twice."""
        with os.scandir(self._fd) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        yield entry.name, FileState.of(entry.stat(follow_symlinks=False))


@contextmanager
def opened(path: Path, *, follow: bool = False) -> Iterator[Folder]:
    """A directory that is there; FileNotFoundError or NotADirectoryError (a symbolic link, too) otherwise."""
    fd = os.open(path, _FOLDER if follow else _FOLDER | os.O_NOFOLLOW)
    try:
        yield Folder(fd, path)
    finally:
        os.close(fd)


opened_top = partial(opened, follow=True)
"""`opened` for a directory that an operator may have put elsewhere by a symbolic link."""


def make_folder(path: Path) -> None:
    """Make a directory in one that is there, durably; nothing if it is there."""
    try:
        os.mkdir(path, 0o700)  # snapshots are nobody else's business
    except FileExistsError:
        return
    with opened_top(path.parent) as parent:
        parent.sync()


@contextmanager
def translated(base: Path) -> Iterator[None]:
    """Make OSError of the block ours."""
    try:
        yield
    except OSError as exc:
        raise unavailable(exc, base) from exc


def unavailable(exc: OSError, base: Path) -> LocalStorageUnavailable:
    """Our error for one of the system's."""
    what = f"{exc.filename or base}: {exc.strerror or exc}"
    for numbers, meaning, hint in _MEANS:
        if exc.errno in numbers:
            return LocalStorageUnavailable(what + meaning, hint=hint.format(base=base))
    return LocalStorageUnavailable(what, hint=f"check the filesystem of {base}")


def gone(folder: Path) -> LocalStorageUnavailable:
    """The error for a directory that was there when the storage was opened: it must not look like an empty one."""
    return LocalStorageUnavailable(
        f"{folder} is not there any more",
        hint="mount its volume again; if it was removed on purpose, close the storage, and the next call begins anew",
    )
