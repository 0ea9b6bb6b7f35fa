"""How far a transfer is, in a file that survives a kill: `Checkpoint` is opened, written now and then, finished.

The file is JSON, replaced as a whole (written beside it, flushed, renamed), so that it is always readable. It says
up to which id (`mark`) everything is done and counted; what a killed run did behind the mark is done again, which
finds it there and copies nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from sagaz_tiering.drivers.files import refusing, replace_file, take_lock
from sagaz_tiering.errors import ConfigError, SagazTieringError
from sagaz_tiering.terminal import document, plain
from sagaz_tiering.transfer.report import Counts

FORMAT = 1
SNAPSHOTS: Final = "snapshots"
REPLAY_LOGS: Final = "replay_logs"
FINISHED: Final = "finished"
_ANOTHER: Final = "give another file with --journal, or overwrite it with --restart"


@dataclass(slots=True, kw_only=True)
class Standing:
    """Where a transfer stands. `mark`: in `phase`, everything up to this id is done and in the counts.

    `probe` is a snapshot that was at the target when the mark passed it.
    """

    phase: Literal["snapshots", "replay_logs", "finished"] = SNAPSHOTS
    mark: UUID | None = None
    probe: UUID | None = None
    seconds: float = 0.0
    snapshots: Counts = field(default_factory=Counts)
    replay_logs: Counts = field(default_factory=Counts)


_STANDING: Final = TypeAdapter(Standing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes two runs the same transfer."""

    source: str
    target: str
    saga_ids: Sequence[UUID] | None
    replay_logs: bool
    verify: bool

    @property
    def fingerprint(self) -> str:
        """32 hex digits."""
        parts = hashlib.sha256()
        for text in (self.source, self.target, f"replay_logs={self.replay_logs}", f"verify={self.verify}"):
            parts.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        for saga_id in self.saga_ids or ():
            parts.update(saga_id.bytes)
        parts.update(b"some" if self.saga_ids is not None else b"all")
        return parts.hexdigest()[:32]


class Checkpoint:
    """One transfer's journal. Only one process at a time has it open."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self._path = path
        self._identity = identity
        self._lock = -1
        self._writing = threading.Lock()  # the thread of a cancelled write goes on

    def open(self, *, restart: bool) -> Standing | None:
        """Take the journal; where the transfer stands, or None for one that begins (again). Blocking.

        A finished one begins again. Raises ConfigError if the file is of another transfer or cannot be used
        (`restart` overwrites it), LeaseLost if another process has it open.
        """
        try:
            with refusing(f"the journal {self._path} cannot be used", "give another file with --journal"):
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._lock = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
                take_lock(self._lock, f"another process is at this transfer (it holds {self._path})")
                text = None if restart or not self._path.exists() else self._path.read_bytes()
            return None if text is None else self._read(text)
        except SagazTieringError:
            self.close()
            raise

    def render(self, standing: Standing) -> bytes:
        """What `write` takes; `standing` may change while that works."""
        identity = self._identity
        found = {
            "format": FORMAT,
            "transfer": identity.fingerprint,
            "source": identity.source,
            "target": identity.target,
            "selected_sagas": None if identity.saga_ids is None else len(identity.saga_ids),
            **document(standing, without=("probe",)),
            "witness": plain(standing.probe),
            "seconds": round(standing.seconds, 3),
        }
        return json.dumps(found, indent=1).encode()

    def write(self, text: bytes) -> None:
        """Make it what a later run begins with. Blocking. Raises ConfigError if it cannot be written."""
        hint = "free space, or give another --journal"
        with self._writing, refusing(f"the journal {self._path} cannot be written", hint):
            replace_file(self._path, text)

    def close(self) -> None:
        """Let other processes have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _read(self, text: bytes) -> Standing | None:
        try:
            found = json.loads(text)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}, this version reads {FORMAT}")
            of, between = found["transfer"], (found["source"], found["target"])
            standing = _STANDING.validate_python({**found, "probe": found["witness"]})
            if any(found[name] != value for name, value in document(standing, without=("probe",)).items()):
                raise ValueError("something is missing")
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            reason = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else exc
            raise ConfigError(f"{self._path} is not a journal of a transfer: {reason}", hint=_ANOTHER) from exc
        if of != self._identity.fingerprint:
            raise ConfigError(
                f"{self._path} is the journal of another transfer (from {between[0]} to {between[1]}, "
                "or with other sagas or options)",
                hint=_ANOTHER,
            )
        return None if standing.phase == FINISHED else standing
