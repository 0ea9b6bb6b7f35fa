"""How `LocalObjectStore` keeps objects on disk. Blocking calls only; raises OSError as the system does.

    ROOT/objects/packs/2026/01/never/9f….pack.object/data           the bytes, never touched again (a swapped object has
                                                                    them in a file that its record names)
                                                    /record.json    class, sha256, times, restore state
    ROOT/staging/<one directory per open store>/                    what is being written or removed

An object is a directory of two files. It is built and fsynced under `staging`, then renamed to its place: rename
refuses a directory that is not empty, so one system call makes bytes and record appear together, complete, and
never over another object. Removing is the same rename backwards. A change of class or restore state replaces
`record.json` by rename and leaves the bytes alone. (A sidecar tree needs two renames, between which a crash leaves
half an object; a header in the data file needs the bytes rewritten for every change; extended attributes do not
exist on every filesystem.)

Several processes may use one root. Each open store holds a lock on its staging directory; the next store that
opens removes the directories whose owner is dead, and with them all that a crash left behind.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from sagaz_tiering.errors import CorruptData, InvalidKey
from sagaz_tiering.storage_class import StorageClass

OBJECT_SUFFIX = ".object"
DATA = "data"
_DATA_NAME = re.compile(r"data(\.[0-9a-f]{32})?")
MAX_PART_BYTES = 255
_MOST_OF_A_RECORD = 64 * 2**10
PUBLISH_ATTEMPTS = 100
"""How often a put makes its folders anew when deletes keep removing them as empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRecord:
    """What `record.json` says: `size` in bytes, times in microseconds since 1970, `sha256` in hex.

    `data` is the file that has the bytes; another one than DATA after a swap.
    """

    size: int
    sha256: str
    storage_class: StorageClass
    modified_at: int
    ready_at: int | None = None
    readable_until: int | None = None
    data: str = DATA

    def to_bytes(self) -> bytes:
        fields = {name: value for name, value in asdict(self).items() if (name, value) != ("data", DATA)}
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> ObjectRecord:
        """Raises CorruptData for anything that `to_bytes` did not make."""
        try:
            fields = json.loads(data)
            if not _DATA_NAME.fullmatch(fields.get("data", DATA)):
                raise ValueError(fields["data"])
            return cls(**{**fields, "storage_class": StorageClass(fields["storage_class"])})
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise CorruptData(f"{where}: not the record of an object: {data[:80]!r}") from exc


class OpenObject:
    """One object's directory, held open: what is read belongs together, whatever happens to the key meanwhile."""

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where

    def record(self) -> ObjectRecord:
        return ObjectRecord.from_bytes(self._read("record.json", 0, _MOST_OF_A_RECORD), self._where)

    def data(self, offset: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes from `offset`."""
        while True:
            name = self.record().data
            try:
                return self._read(name, offset, length)
            except FileNotFoundError:
                if self.record().data == name:  # else it was swapped between the two
                    raise

    def replace_data(self, data: bytes, record: ObjectRecord) -> None:
        """Other bytes: they are there once the record names their file. The caller holds the lock."""
        old, new = self.record().data, f"{DATA}.{uuid4().hex}"
        _write_file(new, data, dir_fd=self._fd)
        self.replace_record(replace(record, data=new))
        os.unlink(old, dir_fd=self._fd)

    def replace_record(self, record: ObjectRecord) -> None:
        _write_file("record.new", record.to_bytes(), dir_fd=self._fd)
        os.rename("record.new", "record.json", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)

    def lock(self) -> None:
        """Wait until no other process changes this object's record; held until the object is closed."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd), "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)


class ObjectTree:
    """The directory tree of one store."""

    def __init__(self, root: Path) -> None:
        self.objects = root / "objects"
        self._staging = root / "staging"
        self._own: Path | None = None
        self._own_fd = -1

    def open(self) -> None:
        """Make or find the tree, clear what dead processes left, and take a staging directory."""
        os.makedirs(self.objects, 0o700, exist_ok=True)  # snapshots are nobody else's business
        os.makedirs(self._staging, 0o700, exist_ok=True)
        with _opened(self._staging) as staging_fd:
            fcntl.flock(staging_fd, fcntl.LOCK_EX)  # nobody sweeps between our mkdir and our lock
            for name in os.listdir(self._staging):
                _remove_if_abandoned(self._staging / name)
            own = self._staging / uuid4().hex
            os.mkdir(own, 0o700)
            self._own_fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._own_fd, fcntl.LOCK_EX)
            self._own = own

    def close(self) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._own_fd)
            self._own = None

    def is_present(self) -> bool:
        """Whether the tree is still there (a volume may be unmounted under us)."""
        return self._own is not None and self._own.is_dir() and self.objects.is_dir()

    def is_writable(self) -> bool:
        """Whether this process may read and write here, as far as can be told without writing."""
        return all(os.access(folder, os.R_OK | os.W_OK | os.X_OK) for folder in (self.objects, self._staging))

    def path(self, key: str) -> Path:
        """Where a (checked) key lives; raises InvalidKey for parts that a filesystem cannot name."""
        *folders, name = key.split("/")
        for part in folders:
            if part.endswith(OBJECT_SUFFIX):
                raise InvalidKey(f"key {key!r:.80} has a folder that ends in {OBJECT_SUFFIX!r}, kept for objects")
        if any(len(part.encode()) > MAX_PART_BYTES for part in [*folders, name + OBJECT_SUFFIX]):
            raise InvalidKey(f"key {key!r:.80}… has a part over {MAX_PART_BYTES - len(OBJECT_SUFFIX)} bytes")
        return self.objects.joinpath(*folders, name + OBJECT_SUFFIX)

    @contextmanager
    def opened(self, key: str) -> Iterator[OpenObject]:
        """Raises FileNotFoundError or NotADirectoryError where there is no such object."""
        target = self.path(key)
        with _opened(target) as fd:
            yield OpenObject(fd, str(target))

    def write(self, key: str, data: bytes | bytearray, record: ObjectRecord) -> None:
        """Make a durable object, or raise and leave nothing; FileExistsError if the key is taken."""
        target = self.path(key)
        staged = self._staged()
        try:
            os.mkdir(staged, 0o700)
            _write_file(staged / "data", data)
            _write_file(staged / "record.json", record.to_bytes())
            _fsync_directory(staged)
            self._publish(staged, target)
        finally:  # after the rename there is nothing of that name any more
            shutil.rmtree(staged, ignore_errors=True)
        # Folders may be new, or another process's that it has not yet made durable.
        for folder in target.parents[: len(target.parents) - len(self.objects.parents)]:
            _fsync_directory(folder)

    def update(self, key: str, change: Callable[[ObjectRecord], ObjectRecord]) -> ObjectRecord:
        """Replace the record by what `change` makes of it, alone among all processes; returns the new one."""
        with self.opened(key) as found:
            found.lock()
            old = found.record()
            new = change(old)
            if new != old:
                found.replace_record(new)
            return new

    def swap(self, key: str, data: bytes, record: ObjectRecord, sha256: str) -> bool:
        """Other bytes under a key whose bytes have this sha256 (hex) until now; False if they have not."""
        with self.opened(key) as found:
            found.lock()
            if found.record().sha256 != sha256:
                return False
            found.replace_data(data, record)
            return True

    def remove(self, key: str) -> None:
        """Remove object and folders that are empty then; raises FileNotFoundError for a missing key."""
        target = self.path(key)
        grave = self._staged()
        os.rename(target, grave)
        with suppress(FileNotFoundError):  # the folder went with a delete beside us, which synced its own
            _fsync_directory(target.parent)
        shutil.rmtree(grave, ignore_errors=True)
        for folder in target.parents:
            if folder == self.objects:
                return
            try:
                os.rmdir(folder)
            except OSError:  # not empty, or another delete was faster
                return

    def walk(self, prefix: str, start_after: str, base: str = "") -> Iterator[str]:
        """Keys below `base` in S3's order, one directory in memory per level (a key has 512 at most)."""
        for name in self._entries(base):
            if name.endswith("/"):
                fits = name.startswith(prefix) or prefix.startswith(name)
                if fits and (name > start_after or start_after.startswith(name)):
                    yield from self.walk(prefix, start_after, name)
            elif name.startswith(prefix) and name > start_after:
                yield name

    def _entries(self, base: str) -> list[str]:
        """Full names in a directory; a folder's ends in "/", as in the keys below it, so that order is S3's."""
        names: list[str] = []
        try:
            with os.scandir(self.objects / base) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        plain = entry.name.removesuffix(OBJECT_SUFFIX)
                        names.append(base + (plain if plain != entry.name else f"{plain}/"))
        except FileNotFoundError:
            if not self.objects.is_dir():
                raise
        return sorted(names)

    def _staged(self) -> Path:
        if self._own is None:
            raise OSError(errno.EBADF, "the store is not open")
        return self._own / uuid4().hex

    def _publish(self, staged: Path, target: Path) -> None:
        for _ in range(PUBLISH_ATTEMPTS):
            # A delete may remove a folder as empty between any two of these calls: then all begins anew.
            try:
                os.makedirs(target.parent, 0o700, exist_ok=True)
            except (FileExistsError, FileNotFoundError):
                if not self.is_present():
                    raise
                continue
            try:
                return os.rename(staged, target)
            except FileNotFoundError:
                if not self.is_present():
                    raise
            except OSError as exc:
                if exc.errno == errno.ENOTEMPTY:
                    raise FileExistsError(errno.EEXIST, "the key is taken", str(target)) from exc
                raise
        raise OSError(errno.EBUSY, "folders vanished again and again", str(target))


def _write_file(name: str | Path, data: bytes | bytearray, *, dir_fd: int | None = None) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def _fsync_directory(path: Path) -> None:
    with _opened(path) as fd:
        os.fsync(fd)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)  # a process that was forked meanwhile has it open, too
        os.close(fd)


def _remove_if_abandoned(directory: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, BlockingIOError), _opened(directory) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
