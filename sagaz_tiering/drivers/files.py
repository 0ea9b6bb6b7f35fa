"""Files of ours on this machine: only their owner may read them, and what a call says is on the disk is; blocking."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sagaz_tiering.errors import ConfigError, LeaseLost


@contextmanager
def refusing(what: str, hint: str = "") -> Iterator[None]:
    """An OSError within the block becomes a ConfigError that says `what` could not be done, and the system's reason."""
    try:
        yield
    except OSError as exc:
        raise ConfigError(f"{what}: {exc.strerror or exc}", hint=hint) from exc


def take_lock(descriptor: int, refused: str) -> None:
    """Have the lock of an open file or folder, until it is closed. Raises LeaseLost (`refused`) if another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise LeaseLost(refused, hint="wait for it, or stop it") from exc


def open_private(path: str, flags: int) -> int:
    """An `opener` of files that only we may read."""
    return os.open(path, flags, 0o600)


def new_file(path: Path) -> BinaryIO:
    """An empty file, whatever was there."""
    return open(path, "wb", opener=open_private)


def flush_file(file: Any) -> None:
    """Have the disk keep what was written into an open file."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make a rename last; a file system that cannot flush a folder does it by itself."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """A file with these bytes, on the disk; its name lasts once its folder is flushed."""
    with new_file(path) as file:
        file.write(data)
        flush_file(file)


def replace_file(path: Path, data: bytes) -> None:
    """The same all at once: whoever reads it meanwhile, or after a kill, finds the bytes before or these."""
    beside = path.with_name(f"{path.name}.new")
    write_file(beside, data)
    beside.replace(path)
    flush_folder(path.parent)
