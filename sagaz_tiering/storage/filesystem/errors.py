"""The one place where what the filesystem says to `FilesystemSnapshotStorage` becomes an error of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sagaz_tiering.errors import LocalStorageUnavailable

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ESTALE})
_TOO_MANY: Final = frozenset({errno.EMFILE, errno.ENFILE})


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
    if exc.errno in FULL:
        return LocalStorageUnavailable(
            f"{what}; nothing was stored, what was stored before is intact",
            hint=f"make room on the filesystem of {base} (or raise the quota or file size limit of this process); "
            "enable_compression=True and delete_expired_snapshots() save space",
        )
    if exc.errno in REFUSED:
        return LocalStorageUnavailable(what, hint=f"let this user read, write and enter the directories below {base}")
    if exc.errno in _NOT_THERE:
        return LocalStorageUnavailable(
            f"{what}, where the directory of a snapshot storage belongs",
            hint=f"mount the volume of {base}, correct base_path, or move away what is in the way",
        )
    if exc.errno in _TOO_MANY:
        return LocalStorageUnavailable(what, hint="raise the limit of open files (ulimit -n) of this process")
    return LocalStorageUnavailable(what, hint=f"check the filesystem of {base}")


def gone(folder: Path) -> LocalStorageUnavailable:
    """The error for a directory that was there when the storage was opened: it must not look like an empty one."""
    return LocalStorageUnavailable(
        f"{folder} is not there any more",
        hint="mount its volume again; if it was removed on purpose, close the storage, and the next call begins anew",
    )


def late(base: Path, seconds: float) -> LocalStorageUnavailable:
    """The error for a passed deadline."""
    return LocalStorageUnavailable(
        f"{base} did not answer within {seconds:g} s",
        hint="the disk or network mount behind it hangs, or raise io_timeout",
    )
