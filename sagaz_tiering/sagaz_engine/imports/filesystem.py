"""What sagaz's `FilesystemSnapshotStorage` wrote: the files themselves. Its index files are not looked at.

sagaz rewrites files in place, so that some may be torn, and two processes lose each other's index entries.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from sagaz_tiering.clock import Clock
from sagaz_tiering.errors import ConfigError, LocalStorageUnavailable
from sagaz_tiering.sagaz_engine.imports.scanned import ScannedRecord, ScannedSource
from sagaz_tiering.storage.filesystem.files import MAX_FILE_BYTES, gone, unavailable

_SUFFIXES: Final = (".json", ".json.gz")
_LISTED: Final = 1_000
_SECONDS: Final = 60.0
"""Deadline of a page of a listing, or of a batch of files."""

T = TypeVar("T")


class SagazFilesystemSource(ScannedSource):
    """Every snapshot and replay record in the folders below `base_path` that sagaz's storage was given.

    Of two files of one snapshot (compressed and not, or under two sagas) the one written last counts.

    Raises ConfigError where there is no such folder, LocalStorageUnavailable where its disk cannot be asked.
    """

    kind = "sagaz+file"

    def __init__(self, base_path: str | Path = "./saga-snapshots", *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self._base = Path(base_path)

    async def _connect(self) -> None:
        if not await self._run(self._is_there):
            raise ConfigError(
                f"{self._base} is not the folder of a sagaz storage: it has no folder 'snapshots' in it",
                hint="give the base_path that FilesystemSnapshotStorage was made with",
            )

    async def _listed(self) -> AsyncIterator[list[tuple[ScannedRecord, int]]]:
        files = self._files()
        while page := await self._run(lambda: list(islice(files, _LISTED))):
            yield page

    async def _loaded(self, listed: Sequence[ScannedRecord]) -> list[ScannedRecord]:
        return await self._run(lambda: [stored if stored.problem else self._content(stored) for stored in listed])

    async def _run(self, work: Callable[[], T]) -> T:
        """`work` in a thread, with a deadline: a hanging mount must not hang the reading."""
        try:
            async with asyncio.timeout(_SECONDS):
                return await asyncio.to_thread(work)
        except TimeoutError as exc:
            raise LocalStorageUnavailable(
                f"{self._base} did not answer within {_SECONDS:g} s", hint="the disk or network mount behind it hangs"
            ) from exc
        except OSError as exc:
            raise unavailable(exc, self._base) from exc

    def _is_there(self) -> bool:
        return (self._base / "snapshots").is_dir()

    def _files(self) -> Iterator[tuple[ScannedRecord, int]]:
        """What there is to read, and its bytes; of a folder or file that cannot be looked at, the reason."""
        with os.scandir(self._base / "snapshots") as sagas:
            for saga in sagas:
                yield from self._files_in(Path(saga.path), is_replay=False)
        yield from self._files_in(self._base / "replays", is_replay=True)

    def _files_in(self, folder: Path, *, is_replay: bool) -> Iterator[tuple[ScannedRecord, int]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    about = _stat(entry)
                    if about is None:
                        continue
                    found = ScannedRecord(
                        self._key_of(entry.path), None, written=about.st_mtime_ns, is_replay=is_replay
                    )
                    if about.st_size > MAX_FILE_BYTES:
                        yield found._replace(problem=f"it is larger than {MAX_FILE_BYTES:,} bytes"), 0
                    else:
                        yield found, about.st_size
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            yield ScannedRecord(self._key_of(folder), None, problem=exc.strerror or str(exc)), 0

    def _content(self, stored: ScannedRecord) -> ScannedRecord:
        try:
            return stored._replace(data=(self._base / os.fsdecode(stored.key)).read_bytes())
        except FileNotFoundError as exc:
            if not self._is_there():  # an unmounted volume must not look like deleted files
                raise gone(self._base / "snapshots") from exc
            return stored
        except OSError as exc:
            return stored._replace(problem=exc.strerror or str(exc))

    def _key_of(self, path: str | Path) -> bytes:
        return os.fsencode(Path(path).relative_to(self._base))


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What is known of a file that may be a record; None for another, or one that was removed meanwhile."""
    try:
        return entry.stat() if entry.name.endswith(_SUFFIXES) and entry.is_file() else None
    except FileNotFoundError:
        return None
