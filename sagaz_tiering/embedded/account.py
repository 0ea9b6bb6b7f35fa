"""Running servers for root, never as root: under which account, and what that account can reach.

Nothing that is not a server's own data is ever chmod-ed or chown-ed: what the account cannot reach is put (data) or
copied (binaries) where it can.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sagaz_tiering.errors import ConfigError

SHARED_ROOT = Path("/var/lib/sagaz-tiering-embedded")
"""Where root keeps what the unprivileged account must reach and no folder of the user's lets it."""

_ACCOUNTS = ("nobody", "daemon")
_AS_USER = "or run sagaz-tiering as an ordinary user, who needs none of this"


class Account(NamedTuple):
    """An account of the system."""

    uid: int
    gid: int
    name: str


def unprivileged_account() -> Account | None:
    """Whom the servers of root run as; None where we are not root and need nobody else.

    Raises ConfigError if the system has no such account or does not let us become it (a user namespace).
    """
    if os.geteuid() != 0:
        return None
    account = _first_account()
    if account is not None:
        _require_usable(account)
        return account
    raise ConfigError(
        f"the embedded servers do not run as root, and there is no account {' or '.join(_ACCOUNTS)} to run it as",
        hint=f"create one, {_AS_USER}",
    )


def _first_account() -> Account | None:
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            if found.pw_uid != 0:
                return Account(found.pw_uid, found.pw_gid, name)
    return None


@contextmanager
def throwaway_folder(prefix: str) -> Iterator[Path]:
    """A folder for servers and their configuration, gone at the end; any account can pass through it, and list none."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def let_pass(folder: Path) -> None:
    """Open a folder that root has just made for passing through (not listing), to that account's group alone."""
    account = _first_account() if os.geteuid() == 0 else None
    if account is not None:
        os.chown(folder, -1, account.gid)
        folder.chmod(0o710)


def give(path: Path, account: Account | None) -> None:
    """Hand a server's own data over to the account, all of it; also what root's server left there before."""
    if account is None:
        return
    os.chown(path, account.uid, account.gid, follow_symlinks=False)
    for folder, folders, files in os.walk(path):
        for inner in (Path(folder, name) for name in (*folders, *files)):
            found = inner.lstat()
            if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:  # nothing that is elsewhere, too
                os.chown(inner, account.uid, account.gid, follow_symlinks=False)


def _require_usable(account: Account) -> None:
    try:
        succeeded = run_as(account, ["/bin/sh", "-c", ":"])
    except (OSError, subprocess.SubprocessError) as exc:
        raise ConfigError(
            f"the embedded servers do not run as root, and this system does not let us become {account.name}: {exc}",
            hint=f"allow setuid here (a container may forbid it), {_AS_USER}",
        ) from exc
    if not succeeded:
        raise ConfigError(f"the account {account.name} cannot run /bin/sh", hint=f"check it, {_AS_USER}")


def run_as(account: Account, argv: Sequence[str]) -> bool:
    """Whether a short command succeeds under the account; raises OSError if it cannot even be started."""
    done = subprocess.run(
        argv,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        cwd="/",
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    return done.returncode == 0


def can_run(account: Account, binary: Path) -> bool:
    """Whether the account can run a binary, which knows `--version`."""
    try:
        return run_as(account, [str(binary), "--version"])
    except OSError:
        return False


def can_enter(account: Account, folder: Path) -> bool:
    """Whether the account can go through all the folders down to `folder`. Tried, not computed (ACLs)."""
    return run_as(account, ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])


def new_shared_folder(prefix: str, *, account: Account, lasting: bool) -> Path:
    """A fresh empty folder of root's that the account can go through, and nobody else.

    Under SHARED_ROOT if it has to last, else (or where that cannot be written) in a temporary folder. Raises
    ConfigError where there is no place for it.
    """
    tried: list[str] = []
    for find_parent in (_shared_root, *_TEMPORARY) if lasting else _TEMPORARY:
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=find_parent()))
        except OSError as exc:
            tried.append(str(exc))
            continue
        let_pass(folder)
        if can_enter(account, folder):
            return folder
        folder.rmdir()
        tried.append(f"{account.name} cannot enter {folder.parent}")
    raise ConfigError(
        f"there is no place for data of the account {account.name}: {'; '.join(tried)}",
        hint=f"use a data folder that every account can enter (not its contents), {_AS_USER}",
    )


def _shared_root() -> Path:
    try:
        SHARED_ROOT.mkdir()
        SHARED_ROOT.chmod(0o755)  # whatever the umask is
    except FileExistsError:
        if not _is_trustworthy(SHARED_ROOT):
            raise
    return SHARED_ROOT


_TEMPORARY: tuple[Callable[[], Path], ...] = (lambda: Path(tempfile.gettempdir()), lambda: Path("/var/tmp"))


def shared_copy(sources: Sequence[Path], *, key: str, account: Account) -> Path:
    """A folder that the account can read with a copy of each source in it, made once for each `key`.

    `key` names the content (package and version). The copy appears whole or not at all. Raises ConfigError
    where there is no place for it.
    """
    tried: list[str] = []
    for find_parent in (_shared_root, *_TEMPORARY):
        try:
            parent = find_parent()
            target = parent / key
            if not _is_trustworthy(target):
                _copy_whole(sources, target)
            if can_enter(account, target):
                return target
            tried.append(f"{target}: {account.name} cannot enter it")
        except OSError as exc:
            tried.append(str(exc))
    raise ConfigError(
        f"the account {account.name} cannot read {sources[0]}, and there is no place to copy it to: {'; '.join(tried)}",
        hint=f"install into a folder that every account can read, {_AS_USER}",
    )


def _is_trustworthy(folder: Path) -> bool:
    """A real folder that only root could have filled (the parent may be /tmp)."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} exists and is not ours")
    return True


def _copy_whole(sources: Sequence[Path], target: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for source in sources:
            shutil.copytree(source, unfinished / source.name, symlinks=True, ignore=_UNNEEDED)
        _open_for_reading(unfinished)
        try:
            unfinished.rename(target)
        except OSError:
            # Another process was faster; its copy is as good.
            if not _is_trustworthy(target):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


_UNNEEDED = shutil.ignore_patterns("*.a", "__pycache__", "doc", "include", "pkgconfig", "*.py")


def _open_for_reading(root: Path) -> None:
    """Readable for everybody, writable for us only: our own copies, whatever the umask was."""
    root.chmod(0o755)
    for folder, folders, files in os.walk(root):
        for name in folders:
            Path(folder, name).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
