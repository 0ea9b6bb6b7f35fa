"""What the applications of a storm did, from their logs, and what a read may have answered.

Every call has an interval on the machine's monotonic clock, which all processes share. A call that was acknowledged
took effect somewhere within it; one that failed, or whose process was killed, did or did not. A later call that was
acknowledged settles it. So for each snapshot id and each interval the possible answers are known, also where
applications share ids.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from sagaz_tiering.snapshot import SagaSnapshot

NAMES = UUID("7a6a6a7a-0000-4000-8000-0000000057a7")
KINDS = ("durable", "hot", "brief")
RETAIN = timedelta(seconds=75)
"""How long the kind `brief` is kept."""
SLACK_S = 3.0
"""Around an expiry either answer is right: clocks of servers and processes differ by less."""
SHARED_SAGAS = 6

POLICIES = [
    {
        "name": kind,
        "match": {"saga_name": f"{kind}-*"},
        "durability": "hot" if kind == "hot" else "durable",
        "move": [{"to": "STANDARD_IA", "after": "8s"}],
        "linger": "2s",
        "even_if_costlier": True,
        # Each snapshot by itself, as the model counts it: where a saga ends is not sure in a storm.
        **({"retain": "75s", "clock": "created_at"} if kind == "brief" else {}),
    }
    for kind in KINDS
]


def kind_of(saga_id: UUID) -> str:
    """Of which kind a saga is."""
    return KINDS[saga_id.int % 5 % 3]


def shared_saga(seed: int, number: int) -> UUID:
    """A saga that every worker of every application works on."""
    return uuid5(NAMES, f"{seed} shared {number}")


def snapshot(saga_id: UUID, step: int, version: str, created_us: int) -> SagaSnapshot:
    """A version of the snapshot of a step; everything in it follows from these."""
    chance = random.Random(f"{saga_id} {step} {version}")
    return SagaSnapshot(
        snapshot_id=uuid5(saga_id, str(step)),
        saga_id=saga_id,
        saga_name=f"{kind_of(saga_id)}-saga",
        step_name=f"step-{step}",
        step_index=step,
        status="executing",
        context={"version": version, "pad": chance.randbytes(chance.choice((20, 400, 4000))), "total": chance.random()},
        completed_steps=[],
        created_at=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=created_us),
    )


class Call(NamedTuple):
    """A save (`version`), or a removal (None): in effect from some instant within, if at all."""

    start: float
    end: float
    ok: bool
    version: str | None


def _never(_save: Call) -> bool:
    return False


@dataclass(slots=True)
class Kept:
    """What happened to one snapshot id."""

    saga_id: UUID
    step: int
    created_us: int
    calls: list[Call] = field(default_factory=list)

    def allowed(self, start: float, end: float, may_be_untold: Callable[[Call], bool] = _never) -> set[str | None]:
        """The versions that a read within the interval may answer; None: nothing.

        Of a save that Redis may have lost before anybody knew of it nobody can say that it is missing, so it settles
        nothing: what was there before it may be the answer, as far as that was not removed. What is known to be lost
        is no answer, and what was known before no excuse for it.
        """
        settled = [
            call for call in self.calls if call.ok and call.end < start and not (call.version and may_be_untold(call))
        ]
        found: set[str | None] = {None} if not any(call.version for call in settled) else set()
        for call in self.calls:
            if call.start <= end and not any(later.start > call.end for later in settled):
                found.add(call.version)
        return found

    def ends_after(self) -> float | None:
        """Seconds since 1970 at which it expires."""
        return self.created_us / 1e6 + RETAIN.total_seconds() if kind_of(self.saga_id) == "brief" else None


@dataclass(slots=True)
class Read:
    """A question of an application and what it was told."""

    saga_id: UUID
    question: str
    start: float
    end: float
    wall: float
    answer: list[tuple[int, str]]
    snapshot_step: int | None = None
    error: str = ""


class Story:
    """Everything that the applications did."""

    def __init__(self, logs: Iterable[Path], killed_at: dict[str, float]) -> None:
        """`killed_at`: when the process of a log had ended, for calls that it did not end."""
        self.kept: dict[UUID, dict[int, Kept]] = defaultdict(dict)
        self.reads: list[Read] = []
        self.saves = 0
        removals: list[tuple[UUID, int | None, Call]] = []
        for log in logs:
            for began, ended in _calls(log):
                self._take(began, ended, killed_at.get(log.name, float("inf")), removals)
        for saga_id, step, call in removals:
            for number, kept in self.kept.get(saga_id, {}).items():
                if step in (None, number):
                    kept.calls.append(call)

    def _take(
        self,
        began: dict[str, Any],
        ended: dict[str, Any] | None,
        killed_at: float,
        removals: list[tuple[UUID, int | None, Call]],
    ) -> None:
        saga_id, op = UUID(began["saga"]), began["op"]
        end = ended["end"] if ended else killed_at
        ok = bool(ended and not ended["error"])
        if op == "save":
            kept = self.kept[saga_id].setdefault(began["step"], Kept(saga_id, began["step"], began["created"]))
            kept.calls.append(Call(began["start"], end, ok, began["version"]))
            self.saves += ok
        elif op in ("delete", "forget"):
            removals.append((saga_id, began.get("step"), Call(began["start"], end, ok, None)))
        elif ended is not None:
            answer = [(step, version) for step, version in ended["answer"]]
            self.reads.append(
                Read(saga_id, op, began["start"], end, ended["wall"], answer, began.get("step"), ended["error"])
            )

    def sagas(self) -> Iterator[UUID]:
        """Every saga that something was saved of."""
        yield from self.kept

    def judge(self, read: Read, may_be_untold: Callable[[Call], bool] = _never) -> tuple[str, Kept | None]:
        """What is wrong with an answer, empty if nothing is; and of what. See `Kept.allowed`."""
        steps, answered = self.kept.get(read.saga_id, {}), dict(read.answer)
        if len(answered) != len(read.answer):
            return "doubled: a snapshot twice in one list", None
        for step, version in read.answer:
            kept = steps.get(step)
            if kept is None or version not in kept.allowed(read.start, read.end, may_be_untold):
                return f"wrong: step {step} version {version}", kept
            ends = kept.ends_after()
            if ends is not None and read.wall - (read.end - read.start) > ends + SLACK_S:
                return f"undead: step {step} {read.wall - ends:.1f} s after its end", None
        missing = self._missing(read, steps, answered, may_be_untold)
        return ("" if missing is None else f"lost: step {missing.step}"), missing

    def _missing(
        self,
        read: Read,
        steps: dict[int, Kept],
        answered: dict[int, str],
        may_be_untold: Callable[[Call], bool],
    ) -> Kept | None:
        """What the answer lacks. Steps are saved in the order of their times, so the newest is the highest."""
        for step, kept in steps.items():
            if step in answered or (read.question == "get" and step != read.snapshot_step):
                continue
            if read.question == "latest" and answered and step < max(answered):
                continue
            ends = kept.ends_after()
            if ends is not None and read.wall > ends - SLACK_S:
                continue
            if None not in kept.allowed(read.start, read.end, may_be_untold):
                return kept
        return None


def _calls(log: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Each call of a log, and its end if it has one. The last line may be cut."""
    begun: dict[int, dict[str, Any]] = {}
    for line in log.read_text().split("\n")[:-1] if log.exists() else ():
        entry = json.loads(line)
        if "op" in entry:
            begun[entry["call"]] = entry
        else:
            yield begun.pop(entry["call"]), entry
    for entry in begun.values():
        yield entry, None
