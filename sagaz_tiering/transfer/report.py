"""What a transfer counts, and what it reports: every item that was found is in exactly one column."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal
from uuid import UUID

from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import document

MAX_NAMED = 100
"""Failures and notes that a report names; all of them are counted, and all failures are in the log."""


Outcome = Literal["copied", "already_there", "failed", "archived", "expired"]
"""What became of one item; also the column of `Counts` that it is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One item that did not arrive, and why. `item_id` is None where a saga could not be read to its end."""

    item_id: str | None
    saga_id: str | None
    error_type: str
    error: str


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counts of one kind of item. `found == copied + already_there + failed + skipped`, at any time.

    `copied`: written to the target (a dry run: would be). `archived`: not copied, since the source must restore
    them first. `expired`: past their retention before they were at the target, or by the target's own rules.
    `verified`: read back from the target and equal; `not_compared`: at the target, in an archive class, taken as
    equal by what its index tells. `bytes`: of the JSON of what was copied or already there.
    `sagas_missing`: asked for by id, and the source has nothing of them.
    """

    found: int = 0
    copied: int = 0
    already_there: int = 0
    failed: int = 0
    archived: int = 0
    expired: int = 0
    verified: int = 0
    not_compared: int = 0
    bytes: int = 0
    sagas: int = 0
    sagas_missing: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)

    @property
    def skipped(self) -> int:
        """What was found and deliberately not copied."""
        return self.archived + self.expired

    def count(self, outcome: Outcome, *, size: int = 0) -> None:
        """One more item, of `size` bytes of JSON."""
        self.found += 1
        setattr(self, outcome, getattr(self, outcome) + 1)
        self.bytes += size

    def fail(self, error: SagazTieringError, *, item_id: UUID | None, saga_id: UUID | None) -> None:
        """One more item that did not arrive."""
        self.count("failed")
        if error.exit_code not in self.exit_codes:
            self.exit_codes.append(error.exit_code)
        if len(self.failures) < MAX_NAMED:
            item, saga = (None if each is None else str(each) for each in (item_id, saga_id))
            self.failures.append(Failure(item_id=item, saga_id=saga, error_type=type(error).__name__, error=str(error)))

    def note(self, text: str) -> None:
        """Something that a person should know; said once."""
        if text and text not in self.notes and len(self.notes) < MAX_NAMED:
            self.notes.append(text)

    def add(self, other: Counts) -> None:
        """All that the other counted, too."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures[: MAX_NAMED - len(self.failures)]
        self.exit_codes += [code for code in other.exit_codes if code not in self.exit_codes]
        for text in other.notes:
            self.note(text)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, "skipped")


_NUMBERS = tuple(f.name for f in fields(Counts) if f.name not in ("failures", "notes", "exit_codes"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress:
    """How far a transfer is. Counts are of `phase` ("snapshots", then "replay logs") and cover resumed runs;
    `before` of `found` were done by an earlier run, `seconds` are of this run in this phase: the rate is of both.
    """

    phase: str
    found: int
    copied: int
    already_there: int
    failed: int
    skipped: int
    bytes: int
    before: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class TransferReport:
    """What a transfer did (or, dry, would do), from its very beginning: a resumed one includes the runs before.

    `seconds` is the time of all runs, `run_seconds` and `run_items` are of this one. `stopped`: it was asked to
    stop before the end; running it again with the same journal goes on. `source_…` is the account of a reader of
    foreign data in this run: records that it could not read, that it took differently from how they are written, and
    that it left out as expired; the first messages of each.
    """

    source: str
    target: str
    dry_run: bool
    snapshots: Counts = field(default_factory=Counts)
    replay_logs: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    run_seconds: float = 0.0
    run_items: int = 0
    resumed: bool = False
    stopped: bool = False
    source_problems: list[str] = field(default_factory=list)
    source_problem_count: int = 0
    source_adjusted: list[str] = field(default_factory=list)
    source_adjusted_count: int = 0
    source_expired: int = 0

    @property
    def failed(self) -> int:
        """Items that did not arrive."""
        return self.snapshots.failed + self.replay_logs.failed

    @property
    def items_per_second(self) -> float:
        """Rate of this run."""
        return self.run_items / self.run_seconds if self.run_seconds > 0 else 0.0

    @property
    def exit_code(self) -> int:
        """0 if all arrived; else that of the failures (1 if they differ), 6 for unreadable data of the source, 5 if
        something must be restored first, 8 if a saga that was asked for is not there. A stop is the caller's.
        """
        codes = {*self.snapshots.exit_codes, *self.replay_logs.exit_codes}
        codes |= {6} if self.source_problem_count else set()
        if codes:
            return codes.pop() if len(codes) == 1 else 1
        if self.snapshots.archived:
            return 5
        return 8 if self.snapshots.sagas_missing else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        shown = document(self, "failed", "items_per_second", "exit_code", without=("run_items",))
        rounded = {"seconds": 3, "run_seconds": 3, "items_per_second": 1}
        return {**shown, **{name: round(shown[name], digits) for name, digits in rounded.items()}}
