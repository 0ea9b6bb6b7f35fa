"""One process at a time on a data folder, and its servers count as that process."""

from __future__ import annotations

import fcntl
import io
import os
import pwd
import time
from pathlib import Path
from typing import BinaryIO

from sagaz_tiering.drivers.files import open_private
from sagaz_tiering.embedded.account import let_pass
from sagaz_tiering.embedded.server import STOP_GRACE_S
from sagaz_tiering.errors import ConfigError

_POLL_S = 0.05
_DYING_S = 1.0
"""How long a killed process may need to be gone; a living one is waited for no longer."""


class HeldFolder(io.FileIO):
    """The locked file in the folder; closing it lets the folder go.

    Servers inherit the descriptor: after our death the folder is free when the last of them is gone.
    """

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / "lock", "r+", opener=lambda path, flags: open_private(path, flags | os.O_CREAT))
        self.data_dir = data_dir


def hold(data_dir: Path) -> HeldFolder:
    """Create the folder if there is none, and hold it. Blocking.

    Raises ConfigError if another process holds it (naming it), if it belongs to another user, or if it cannot
    be used. Waits only for servers whose parent is dead, since these are about to end.
    """
    data_dir = data_dir.absolute()
    _make(data_dir)
    try:
        held = HeldFolder(data_dir)
    except OSError as exc:
        raise ConfigError(f"{data_dir} cannot be used: {exc}", hint="choose a folder that this user owns") from exc
    try:
        _refuse_foreign(data_dir, data_dir.stat().st_uid, os.fstat(held.fileno()).st_uid)
        _acquire(held)
    except BaseException:
        held.close()
        raise
    held.truncate(0)
    held.write(f"{os.getpid()}\n".encode())
    return held


def is_held(data_dir: Path) -> bool:
    """Whether a process (or servers that it left behind) holds the folder; False if we may not look."""
    try:
        with (data_dir / "lock").open("rb") as lock:
            found = not _try(lock, fcntl.LOCK_SH)
            fcntl.flock(lock, fcntl.LOCK_UN)  # a process that is forked meanwhile has it open, too
            return found
    except OSError:
        return False


def _make(data_dir: Path) -> None:
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        data_dir.mkdir(mode=0o700)
        let_pass(data_dir)  # PostgreSQL, which cannot be root
    except FileExistsError as exc:
        if not data_dir.is_dir():
            raise ConfigError(f"{exc.filename} is not a folder") from exc
    except OSError as exc:
        raise ConfigError(f"{data_dir} cannot be created: {exc}", hint="choose a folder that this user owns") from exc


def _refuse_foreign(data_dir: Path, *owners: int) -> None:
    """Root could use anybody's, but would leave files behind that their owner cannot read."""
    owner = next((uid for uid in owners if uid != os.geteuid()), None)
    if owner is None:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    raise ConfigError(f"{data_dir} belongs to the user {name}", hint=f"run as {name}, or use another folder")


def _acquire(held: HeldFolder) -> None:
    begun = time.monotonic()
    while not _try(held, fcntl.LOCK_EX):
        holder = os.pread(held.fileno(), 32, 0).decode(errors="replace").strip()
        lives = _lives(holder)
        if time.monotonic() - begun > (_DYING_S if lives else STOP_GRACE_S + _DYING_S):
            by = f"by process {holder or '(starting)'}" if lives else "by servers that do not end"
            raise ConfigError(
                f"{held.data_dir} is already used {by}",
                hint="stop that one first, or use another data folder",
            )
        time.sleep(_POLL_S)


def _try(lock: BinaryIO | HeldFolder, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(pid: str) -> bool:
    """Whether the process exists and is more than a zombie. Empty: a holder that has not written its pid yet."""
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
