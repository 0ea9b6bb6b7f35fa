"""The ages that the demonstration visits, and what it reports of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sagaz_tiering.terminal import document

FAILED = 6
"""Exit code of a demonstration that lost something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An age that the clock moves to, and what a stranger should know about it."""

    key: str
    age: timedelta
    title: str
    text: str
    shown: tuple[str, ...]
    expires: str | None = None


STAGES = (
    Stage(
        key="day-8",
        age=timedelta(days=8),
        title="8 days later: nobody reads them any more",
        text="The job `age` packs what is older than 7 days into a few large objects of class STANDARD_IA on S3, "
        "verifies them, and only then frees Redis and PostgreSQL. Reads find the snapshots there: one "
        "range request each.",
        shown=("payment-transfer", "order-fulfilment", "health-record-export"),
    ),
    Stage(
        key="day-91",
        age=timedelta(days=91),
        title="91 days later: colder, cheaper",
        text="The job `transition` moved payments to GLACIER (needs a restore before it is read) and orders to "
        "GLACIER_IR (archive price, still readable in milliseconds). Health records wait in STANDARD_IA.",
        shown=("payment-transfer", "order-fulfilment"),
    ),
    Stage(
        key="month-14",
        age=timedelta(days=426),
        title="14 months later: orders are past their 400 days",
        text="Retention is exact: expired orders are invisible from the very instant, before the job `expire` even "
        "runs. It then removes their rows and, after a day of grace, their packs. Health records moved to "
        "DEEP_ARCHIVE.",
        shown=("payment-transfer", "health-record-export"),
        expires="order-fulfilment",
    ),
    Stage(
        key="year-7",
        age=timedelta(days=2557),
        title="7 years later: payments are past their 2555 days",
        text="Payments go the same way. Health records never expire, because nobody wrote down that they should.",
        shown=("health-record-export",),
        expires="payment-transfer",
    ),
)


@dataclass(slots=True, kw_only=True)
class DemoOutcome:
    """What the demonstration found: one entry per stage, and whether every snapshot met its fate."""

    sagas: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    json_bytes: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 only if nothing is missing."""
        return FAILED if self.problems else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ok": not self.problems, **document(self), "seconds": round(self.seconds, 2)}
