"""Running servers for root, never as root: under which account, and what that account can run.

Nothing that is not a server's own data is ever chmod-ed or chown-ed. Servers find their data by their working folder,
which is entered before they become that account, so that folders above may be closed to it; binaries that it cannot
reach are copied where it can.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sagaz_tiering.errors import ConfigError

SHARED_ROOT = Path("/var/lib/sagaz-tiering-embedded")
"""Where root keeps copies of binaries for the unprivileged account."""
TEMPORARY = (Path(tempfile.gettempdir()), Path("/var/tmp"))
"""Where it keeps them if there is no room for that."""

_ACCOUNTS = ("nobody", "daemon")
_AS_USER = "or run sagaz-tiering as an ordinary user, who needs none of this"
_UNNEEDED = shutil.ignore_patterns("*.a", "__pycache__", "doc", "include", "pkgconfig", "*.py")


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
    account = next(filter(None, map(_known, _ACCOUNTS)), None)
    not_as_root = "the embedded servers do not run as root, and"
    if account is None:
        raise ConfigError(
            f"{not_as_root} there is no account {' or '.join(_ACCOUNTS)} to run it as", hint=f"create one, {_AS_USER}"
        )
    try:
        succeeded = _run_as(account, "/bin/sh", "-c", ":")
    except (OSError, subprocess.SubprocessError) as exc:
        raise ConfigError(
            f"{not_as_root} this system does not let us become {account.name}: {exc}",
            hint=f"allow setuid here (a container may forbid it), {_AS_USER}",
        ) from exc
    if not succeeded:
        raise ConfigError(f"the account {account.name} cannot run /bin/sh", hint=f"check it, {_AS_USER}")
    return account


def _known(name: str) -> Account | None:
    with suppress(KeyError):
        found = pwd.getpwnam(name)
        return Account(found.pw_uid, found.pw_gid, name) if found.pw_uid else None
    return None


def becoming(account: Account | None) -> dict[str, Any]:
    """What `subprocess` takes to run something as the account (None: as we are)."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def give(path: Path, account: Account | None) -> None:
    """Hand a server's own data over to the account, all of it; also what root's server left there before."""
    if account is None:
        return
    os.chown(path, account.uid, account.gid, follow_symlinks=False)
    for inner in path.rglob("*"):
        found = inner.lstat()
        if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:  # nothing that is elsewhere, too
            os.chown(inner, account.uid, account.gid, follow_symlinks=False)


def own_folder(path: Path) -> str:
    """How a server names its working folder `path`: it may not pass those above it."""
    here = Path("/proc/self/cwd")
    return str(here if here.exists() else path)


def own_environment() -> dict[str, str]:
    """Nothing of ours that could steer a server (PG*), have it speak another language, or is a secret."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def runnable_copy(account: Account, binary: Path, sources: Sequence[Path], key: str) -> Path:
    """The binary, or its copy where the account cannot run it.

    Then the folders `sources`, of which the first has it, are copied side by side, once for each `key`, which names
    their content (package and version). The copy appears whole or not at all. Raises ConfigError where there is no
    place for it.
    """
    if _can_run(account, binary):
        return binary
    tried: list[str] = []
    for parent in (SHARED_ROOT, *TEMPORARY):
        target = parent / key
        copied = target / binary.relative_to(sources[0].parent)
        try:
            if parent == SHARED_ROOT:
                with suppress(FileExistsError):
                    parent.mkdir()
                    parent.chmod(0o755)  # whatever the umask is
                _is_ours(parent)
            if not _is_ours(target):
                _copy_whole(sources, target)
            if _can_run(account, copied):
                return copied
            tried.append(f"{target}: {account.name} cannot enter it")
        except OSError as exc:
            tried.append(str(exc))
    raise ConfigError(
        f"the account {account.name} cannot read {sources[0]}, and there is no place to copy it to: {'; '.join(tried)}",
        hint=f"install into a folder that every account can read, {_AS_USER}",
    )


def _run_as(account: Account, *argv: str) -> bool:
    """Whether a short command succeeds under the account; raises OSError if it cannot even be started."""
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True}
    return subprocess.run(argv, cwd="/", env={}, timeout=30, check=False, **quiet, **becoming(account)).returncode == 0


def _can_run(account: Account, binary: Path) -> bool:
    """Tried, not computed (ACLs)."""
    try:
        return _run_as(account, str(binary), "--version")
    except OSError:
        return False


def _is_ours(folder: Path) -> bool:
    """Whether it is there, a real folder that only root could have filled (the parent may be /tmp)."""
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
        for path in (unfinished, *unfinished.rglob("*")):  # for everybody to read, whatever the umask was
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        try:
            unfinished.rename(target)
        except OSError:
            # Another process was faster; its copy is as good.
            if not _is_ours(target):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
