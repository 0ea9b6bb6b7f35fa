"""The one place where what the filesystem says becomes an error of ours."""

from __future__ import annotations

import errno
from pathlib import Path

from sagaz_tiering.errors import (
    AccessRefused,
    BucketUnusable,
    ColdTierUnavailable,
    ObjectExists,
    ObjectNotFound,
    SagazTieringError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR}


def translated(exc: OSError, key: str, root: Path, *, present: bool) -> SagazTieringError:
    """Our error for one of the system's; `present` tells whether the store's tree is still there."""
    where = f"{root.as_uri()}/{key}".rstrip("/")
    if exc.errno == errno.EEXIST:
        return ObjectExists(f"{where}: the key is taken; nothing was overwritten")
    if exc.errno in _MISSING:
        # An unmounted volume must not look like an empty store.
        return ObjectNotFound(f"{where}: no such object") if present else gone(root)
    if exc.errno in _FULL:
        return ColdTierUnavailable(
            f"{where} cannot be written: {exc.strerror}; nothing was stored",
            hint=f"make room on the filesystem of {root} (or raise its quota or file size limit)",
        )
    if exc.errno in _REFUSED:
        return AccessRefused(f"{where}: {exc.strerror}", hint=f"let this user read and write below {root}")
    return ColdTierUnavailable(f"{where}: {exc}", hint=f"check the filesystem of {root}")


def gone(root: Path) -> ColdTierUnavailable:
    """The error for a directory that was there when the store was opened."""
    return ColdTierUnavailable(f"{root.as_uri()} is not there any more", hint=f"is the volume of {root} mounted?")


def late(key: str, root: Path, seconds: float) -> ColdTierUnavailable:
    """The error for a passed deadline."""
    return ColdTierUnavailable(
        f"{root.as_uri()}/{key} was not answered within {seconds:g} s",
        hint=f"the disk or network mount behind {root} hangs",
    )


def unopenable(root: Path) -> BucketUnusable:
    """The error for a directory that is not there on opening, or cannot be, because something else is."""
    return BucketUnusable(
        f"{root.as_uri()} is not the directory of a store", hint=f"create {root}, mount its volume, or correct the path"
    )
