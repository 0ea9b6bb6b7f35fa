"""Three kinds of sagas as applications write them with the `sagaz` engine, some of which fail and compensate."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final
from uuid import UUID

from sagaz.core.replay import ReplayConfig, SnapshotStrategy  # type: ignore[import-untyped]  # sagaz ships no types
from sagaz.core.saga import Saga  # type: ignore[import-untyped]  # sagaz ships no types

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.demo.check import Recorder
from sagaz_tiering.jobs import run_job
from sagaz_tiering.operations.status import note_hour, take_stock
from sagaz_tiering.snapshot import SagaSnapshot

AT_ONCE = 16
"""Sagas that run at the same time."""

_CITIES = ("Gdańsk", "Utrecht", "Málaga", "名古屋", "Curitiba", "Leipzig", "Halifax")
_PEOPLE = ("Ada Nowak", "Björn Åberg", "Chiara Conti", "Diego Núñez", "Emeka Obi", "佐藤 文", "Greta Weiß")
_GOODS = ("Steel bottle 0.75 l", "Wool blanket", "Cast-iron pan 28 cm", "Head torch", "Rain jacket", "Desk lamp")
_FINDINGS = ("blood count", "lipid panel", "chest X-ray", "ECG at rest", "vaccination record", "allergy test")


class StepRefused(Exception):
    """What the world outside answered: a declined card, a carrier without vans."""


@dataclass(frozen=True, slots=True)
class KeptForEver:
    """The engine stamps each snapshot with the end of its retention; these records have none."""

    enable_snapshots: bool = True
    snapshot_strategy: Any = SnapshotStrategy.AFTER_EACH_STEP

    def get_retention_until(self) -> None:
        """No end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaKind:
    """A type of saga: its steps, what it starts from, where and how often (one in `fails_every`) it fails."""

    name: str
    steps: tuple[str, ...]
    start: Callable[[Random, int], dict[str, Any]]
    fails_at: str
    fails_every: int
    replay_config: Any


class BusinessSaga(Saga):  # type: ignore[misc]  # sagaz ships no types
    """One run of a kind of saga."""

    def __init__(self, kind: SagaKind, number: int, storage: Any) -> None:
        super().__init__(name=kind.name, replay_config=kind.replay_config, snapshot_storage=storage)
        self._kind = kind
        self._number = number
        self._random = Random(f"{kind.name}/{number}")

    async def build(self) -> None:
        """Add the steps and the starting context."""
        for key, value in self._kind.start(self._random, self._number).items():
            self.context.set(key, value)
        for step in self._kind.steps:
            await self.add_step(step, self._action(step), _compensate, max_retries=0)

    def _action(self, step: str) -> Callable[[Any], Awaitable[dict[str, Any]]]:
        fails = step == self._kind.fails_at and self._number % self._kind.fails_every == 1

        async def act(_context: Any) -> dict[str, Any]:
            await asyncio.sleep(0)
            if fails:
                raise StepRefused(f"{step} was refused")
            return _result(self._random, step)

        return act


async def _compensate(_result: Any, _context: Any) -> None:
    await asyncio.sleep(0)


async def run_sagas(count: int, storage: Any, *, first: int = 0) -> Counter[tuple[str, str]]:
    """Run `count` sagas, the kinds in turn, `AT_ONCE` at a time; how many of each kind ended in which status.

    They are numbered from `first`.
    """
    ended: Counter[tuple[str, str]] = Counter()
    numbers = iter(range(first, first + count))

    async def worker() -> None:
        for number in numbers:
            kind = KINDS[number % len(KINDS)]
            saga = BusinessSaga(kind, number // len(KINDS), storage)
            await saga.build()
            outcome = await saga.execute()
            ended[kind.name, outcome.status.value] += 1

    with _engine_quiet():
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return ended


@contextmanager
def _engine_quiet() -> Iterator[None]:
    """The engine logs every refused step; here they are refused on purpose."""
    log = logging.getLogger("sagaz")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)


def _hex(random: Random, digits: int) -> str:
    return f"{random.getrandbits(4 * digits):0{digits}x}"


def _money(random: Random, most: int) -> Decimal:
    return Decimal(random.randint(100, most * 100)) / 100


def _moment(random: Random) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=random.randrange(10**14))


def _person(random: Random) -> dict[str, Any]:
    city = random.choice(_CITIES)
    return {
        "id": _uuid(random),
        "name": random.choice(_PEOPLE),
        "mail": f"customer{random.randint(1, 10**6)}@example.com",
        "address": {
            "street": f"Main Street {random.randint(1, 180)}",
            "city": city,
            "zip": str(random.randrange(10**5)),
        },
        "since": date(2015 + random.randint(0, 10), random.randint(1, 12), 1),
    }


def _payment(random: Random, number: int) -> dict[str, Any]:
    return {
        "payment": f"PAY-{100_000 + number}",
        "payer": _person(random),
        "payee": {"name": f"Merchant {random.randint(1, 40)} GmbH", "iban": f"DE{random.randrange(10**20):020}"},
        "amount": _money(random, 5000),
        "currency": "EUR",
        "requested_at": _moment(random),
        "device": {"fingerprint": _hex(random, 64), "agent": "Mozilla/5.0 (X11; Linux x86_64)", "ip": "203.0.113.7"},
    }


def _order(random: Random, number: int) -> dict[str, Any]:
    lines = [
        {
            "line": _uuid(random),
            "title": random.choice(_GOODS),
            "pieces": random.randint(1, 4),
            "price": _money(random, 300),
            "ean": str(random.randint(10**12, 10**13 - 1)),
            "warehouse": f"WH-{random.choice(('POZ', 'RTM', 'LEJ'))}-{random.randint(1, 9):02}",
        }
        for _ in range(random.randint(4, 14))
    ]
    return {"order": f"O-{10_000_000 + number}", "customer": _person(random), "lines": lines, "placed": _moment(random)}


def _export(random: Random, number: int) -> dict[str, Any]:
    findings = [
        {
            "record": _uuid(random),
            "kind": random.choice(_FINDINGS),
            "taken": _moment(random),
            "page_count": n,
            "ok": True,
        }
        for n in range(1, random.randint(6, 16))
    ]
    return {"export": f"HX-{number:06}", "patient": _person(random), "findings": findings, "purpose": "second opinion"}


def _result(random: Random, step: str) -> dict[str, Any]:
    """What a step leaves in the context."""
    checks = ("address", "credit", "sanctions", "limits", "signature")
    return {
        "at": _moment(random),
        "reference": f"{step}/{_hex(random, 24)}",
        "fee": _money(random, 3),
        "digest": hashlib.sha256(random.randbytes(8)).digest(),
        "checks": [{"check": name, "passed": True, "ms": round(random.uniform(0.1, 9), 3)} for name in checks],
        "operator": {"service": f"{step.replace('_', '-')}-service", "version": "4.12.1", "node": random.randint(1, 8)},
    }


def _kept(days: int, strategy: Any) -> Any:
    return ReplayConfig(enable_snapshots=True, snapshot_strategy=strategy, retention_days=days)


KINDS: Final = (
    SagaKind(
        name="payment-transfer",
        steps=("authorise", "screen_fraud", "capture", "post_ledger", "send_receipt"),
        start=_payment,
        fails_at="capture",
        fails_every=8,
        replay_config=_kept(7 * 365, SnapshotStrategy.AFTER_EACH_STEP),
    ),
    SagaKind(
        name="order-fulfilment",
        steps=("check_order", "reserve_stock", "take_payment", "book_transport", "tell_customer"),
        start=_order,
        fails_at="book_transport",
        fails_every=6,
        # Shorter than what the policy retains: the later of the two decides.
        replay_config=_kept(30, SnapshotStrategy.BEFORE_EACH_STEP),
    ),
    SagaKind(
        name="health-record-export",
        steps=("verify_consent", "collect_records", "pseudonymise", "encrypt", "deliver"),
        start=_export,
        fails_at="deliver",
        fails_every=10,
        replay_config=KeptForEver(),
    ),
)
"""The kinds of the demonstration."""

GAPS_DAYS: Final = (60, 40, 25, *(3,) * 9, 1, 0)
"""So many days after each handful of sagas the next one begins; the last days have a point each in the history."""
SLOWER: Final = 3_000
"""The engine runs a saga in milliseconds; here its steps lie minutes apart."""


async def run_newer(
    runtime: Runtime, clock: VirtualClock, sagas: int, first: int, *, gaps_days: Sequence[int] = GAPS_DAYS
) -> Recorder:
    """Let time pass with `sagas` sagas in it, numbered from `first`, and the jobs at their work."""
    each, storage = max(1, sagas // len(gaps_days)), _Slower(runtime.storage(), clock)
    recorder = Recorder(storage)
    for days in gaps_days:
        storage.begin()
        await run_sagas(each, recorder, first=first)
        first += each
        clock.advance(timedelta(days=days))
        for name in ("age", "transition", "expire"):
            await run_job(name, runtime.job_context())
        await note_hour(runtime.job_context(), await take_stock(runtime.job_context()))
    return recorder


class _Slower:
    """The storage, told that the machine's moments are those of the demonstration's time, and longer."""

    def __init__(self, storage: Any, clock: VirtualClock) -> None:
        self._storage, self._clock = storage, clock
        self.begin()

    def begin(self) -> None:
        """The machine's moment now is one of some hours ago in the demonstration's time."""
        self._began, self._base = datetime.now(UTC), self._clock.now() - timedelta(hours=6)

    async def save_snapshot(self, snapshot: Any) -> None:
        """Save it as one of then."""
        found = SagaSnapshot.of(snapshot)
        created_at = self._base + (found.created_at - self._began) * SLOWER
        kept = None if found.retention_until is None else found.retention_until - found.created_at + created_at
        await self._storage.save_snapshot(replace(found, created_at=created_at, retention_until=kept))
