"""Master keys in a file: lines `NAME:BASE64`, 32 bytes each; the first is current, the others open what they wrapped.

Empty lines and lines that begin with `#` do not count. The file is read when a key is first needed, and again when it
has changed, so that a new current key needs no restart.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from sagaz_tiering.errors import ConfigError, MasterKeyUnavailable
from sagaz_tiering.keys.frame_key import KEY_BYTES, NotAuthentic, seal, unseal
from sagaz_tiering.keys.master import WrappedKey, bound_to

SCHEME: Final = "file:"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_FILE: Final = 1024 * 1024
_PUT_BACK: Final = (
    "put its copy back: a new key opens nothing that is encrypted; only where there never was one, make it with: "
    "sagaz-tiering keys generate FILE"
)


class KeyFile:
    """`MasterKeys` in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: tuple[int, int, int] | None = None  # by which a change is noticed
        self._keys: dict[str, bytes] = {}

    async def current_id(self) -> str:
        """`file:` and the name in the first line."""
        return SCHEME + next(iter(self._loaded()))

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        """Under the first key of the file."""
        name, master = next(iter(self._loaded().items()))
        wrapped = seal(master, secret, bound_to(key_id, saga_id))
        return WrappedKey(key_id=key_id, saga_id=saga_id, wrapped=wrapped, master_id=SCHEME + name)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Under the key that the wrapping names."""
        name = wrapped.master_id.removeprefix(SCHEME)
        master = self._loaded().get(name)
        if master is None:
            raise MasterKeyUnavailable(
                f"the data key of saga {wrapped.saga_id} was wrapped by master key {name!r}, which {self._path} lacks",
                hint="add its line behind the current one; it can go after: sagaz-tiering keys rotate",
            )
        try:
            return unseal(master, wrapped.wrapped, bound_to(wrapped.key_id, wrapped.saga_id))
        except NotAuthentic as exc:
            raise MasterKeyUnavailable(
                f"master key {name!r} in {self._path} does not open the data key of saga {wrapped.saga_id}",
                hint="the file holds another key under that name, or the row was altered: compare with a backup",
            ) from exc

    async def close(self) -> None:
        """Forget the keys."""
        self._state, self._keys = None, {}

    def _loaded(self) -> Mapping[str, bytes]:
        try:
            found = self._path.stat()
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if state != self._state:
                self._keys = read_key_file(self._path)
                self._state = state
        except OSError as exc:
            raise MasterKeyUnavailable(
                f"the master keys in {self._path} cannot be read: {exc.strerror or exc}",
                hint=f"check encryption.key_file; {_PUT_BACK}",
            ) from exc
        return self._keys


def read_key_file(path: Path) -> dict[str, bytes]:
    """The keys by name, current one first. Raises MasterKeyUnavailable for a file that is open to all, or wrong.

    Keys are never part of a message.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) or path.stat().st_size > _MAX_FILE:
        raise MasterKeyUnavailable(f"{path} is not a key file", hint=_PUT_BACK)
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise MasterKeyUnavailable(
            f"the master keys in {path} are open to others (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod 600 {path}, and take new keys if someone may have read these",
        )
    keys: dict[str, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith(b"#"):
            name, key = _parsed(path, number, line)
            if name in keys:
                raise _wrong(path, number, f"{name!r} is there twice")
            keys[name] = key
    if not keys:
        raise MasterKeyUnavailable(f"{path} holds no key", hint=_PUT_BACK)
    return keys


def _parsed(path: Path, number: int, line: bytes) -> tuple[str, bytes]:
    name, separator, text = line.decode("utf-8", "replace").strip().partition(":")
    if not separator or _NAME.fullmatch(name) is None:
        raise _wrong(path, number, "is not NAME:BASE64 (a name is letters, digits, `_`, `.`, `-`)")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _wrong(path, number, f"what follows {name!r} is not base64") from exc
    if len(key) != KEY_BYTES:
        raise _wrong(path, number, f"key {name!r} has {len(key)} bytes instead of {KEY_BYTES}")
    return name, key


def _wrong(path: Path, number: int, reason: str) -> MasterKeyUnavailable:
    return MasterKeyUnavailable(f"{path}, line {number}: {reason}", hint="restore the file from its backup")


def generate(path: Path, name: str) -> None:
    """Put a new key before those of the file (which is made, for the owner alone), replacing it at once.

    Raises ConfigError for an unusable or used name, MasterKeyUnavailable for a file that is wrong.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{name!r:.80} cannot name a key", hint="use at most 64 letters, digits, `_`, `.` and `-`")
    before = b""
    if path.exists():
        if name in read_key_file(path):
            raise ConfigError(f"{path} has a key {name!r} already", hint="choose another name with --name")
        before = path.read_bytes()
    line = f"{name}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n".encode()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            if before:
                kept = path.stat()
                os.fchmod(out.fileno(), stat.S_IMODE(kept.st_mode))
                if (kept.st_uid, kept.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(out.fileno(), kept.st_uid, kept.st_gid)
            out.write(line + before)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    except OSError as exc:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {exc.strerror or exc}") from exc
