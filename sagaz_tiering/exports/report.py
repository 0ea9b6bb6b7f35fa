"""What an export is asked for, and what it tells: while it is made, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.manifest import MAX_NAMED, ExportCounts, LeftOut, LeftOutSnapshot
from sagaz_tiering.terminal import document

FORMS: Final = ("jsonl", "parquet", "zip")
_PROGRESS_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWish:
    """What is to be exported, and to where. `form`: jsonl or parquet (a folder), or zip (a file with JSON lines).

    `asked_for` describes the sagas in the manifest. `sign_with`: the PEM file of a private Ed25519 key.
    """

    out: Path
    form: str
    who: str
    asked_for: dict[str, Any]
    source: dict[str, str]
    sign_with: Path | None = None
    overwrite: bool = False
    restart: bool = False

    @classmethod
    def of(
        cls,
        store: Mapping[str, Any],
        out: str | Path,
        *,
        form: str,
        saga_ids: Sequence[UUID] | None,
        filters: Mapping[str, Any],
        **options: Any,
    ) -> Self:
        """The wish for these sagas (None: for all that meet the filters) of a store that describes itself so.

        Raises ConfigError.
        """
        if form not in FORMS:
            raise ConfigError(f"{form!r:.40} is no form of an export", hint=f"give one of: {', '.join(FORMS)}")
        asked_for: dict[str, Any] = _as_json(filters)
        if saga_ids is not None:
            digest = sha256(b"".join(saga_id.bytes for saga_id in saga_ids)).hexdigest()
            asked_for = {"sagas": len(saga_ids), "saga_ids_sha256": digest}
            asked_for["saga_ids"] = [str(saga_id) for saga_id in saga_ids[:MAX_NAMED]]
        source = {name: str(store[name]) for name in ("hot", "catalog", "cold")}
        return cls(out=Path(out), form=form, asked_for=asked_for, source=source, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """How far an export is. `found` of `total` (None: not known yet) sagas in `phase`; `before` of them were done by an
    earlier run, `seconds` are of this one in this phase. `failed`: snapshots that could not be read.
    """

    phase: str
    found: int
    total: int | None
    before: int
    seconds: float
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export has in it. `stopped`: it was asked to stop before its end; the same call goes on.

    `manifest_sha256`: what to keep elsewhere, to compare an export that is not signed with; "" if it was stopped.
    """

    out: str
    form: str
    export_id: UUID
    stopped: bool
    runs: int
    counts: ExportCounts
    left_out: list[LeftOutSnapshot] = field(default_factory=list)
    manifest_sha256: str = ""
    public_key: str | None = None

    @property
    def exit_code(self) -> int:
        """0 if all that was found is in it; 6 if something is lost or damaged, 5 if something must be restored."""
        left_out = self.counts.left_out
        if left_out.get(LeftOut.DAMAGED) or left_out.get(LeftOut.LOST) or self.counts.replays_damaged:
            return 6
        return 5 if left_out.get(LeftOut.ARCHIVED) else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, "exit_code")


class Telling:
    """Tells of progress now and then."""

    def __init__(self, progress: Callable[[ExportProgress], None] | None) -> None:
        self._progress = progress
        self._phase, self._began, self._before, self._told = "", 0.0, 0, 0.0

    def __call__(self, phase: str, found: int, total: int | None, *, failed: int = 0) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._before = phase, now, found
        if self._progress is None or (now < self._told + _PROGRESS_EVERY_S and found != total):
            return
        self._told = now
        self._progress(
            ExportProgress(
                phase=phase, found=found, total=total, before=self._before, seconds=now - self._began, failed=failed
            )
        )


def _as_json(value: Any) -> Any:
    """Filters as a manifest has them; what JSON does not know as its text."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_json(each) for each in value]
    known = value is None or isinstance(value, (str, int, float, bool))
    return value if known else value.isoformat() if isinstance(value, date) else str(value)
