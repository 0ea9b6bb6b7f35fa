"""The snapshots that the golden files hold. Never change them: version 1 must stay readable for ever."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sagaz_tiering.snapshot import ReplayStatus, SagaSnapshot

PACK_ID = UUID("0f0e0d0c-0b0a-4908-8706-050403020100")
CATALOG_ID = UUID("11111111-2222-4333-8444-555555555555")
KEY_ID = UUID("0badcafe-0000-4000-8000-00000000cafe")
CREATED_US = 1_772_400_000_000_000
SAVED_US = 1_772_370_000_123_456
ATTRIBUTES = "customer=M\u00fcller \\\\ S\u00f6hne\x1forder_id=17\x1forder_id=A-17"

EVERY_TYPE: dict[str, Any] = {
    "json": [None, True, False, 0, -1, 1.5, -0.0, 1e22, "", "Müller 東京 🚚", "nul\0", [], {}, 2**63 - 1],
    "integers": [2**63, -(2**63) - 1, 10**40],
    "floats": [float("inf"), float("-inf"), float("nan")],
    "surrogates": ["\ud800", "\ud83d\ude00", {"\udfff": 1}],
    "times": [
        datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=-3661, microseconds=7), "LMT")),
        datetime(2026, 3, 1),  # noqa: DTZ001  # naive on purpose: contexts hold such
        date(2026, 3, 1),
        time(23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        timedelta(days=-1, seconds=5, microseconds=6),
    ],
    "ids": UUID("12345678-1234-4678-9234-567812345678"),
    "money": [Decimal("10.00"), Decimal("-0E+5"), Decimal("NaN"), Decimal("Infinity")],
    "bytes": [b"\x00\xff", bytearray(b"abc"), b""],
    "groups": [{3, 1, 2}, frozenset({"b", "a"}), (1, (2, [3])), set(), ()],
    "keys": {1: "one", None: "none", (1, 2): "pair", "~tilde": 1, date(2026, 1, 1): []},
    "status": ReplayStatus.FAILED,
}


def snapshot(number: int, **fields: Any) -> SagaSnapshot:
    """Snapshot `number` of a payment saga, with other fields where given."""
    values: dict[str, Any] = {
        "snapshot_id": UUID(int=0xA0000000_0000_4000_8000_000000000000 + number),
        "saga_id": UUID("c0ffee00-0000-4000-8000-000000000001"),
        "saga_name": "payment-überweisung",
        "step_name": f"step_{number}",
        "step_index": number,
        "status": "executing",
        "context": {"order": "ORD-1", "items": [{"sku": "SKU-1", "price": 9.99}] * (number + 1)},
        "completed_steps": [f"step_{i}" for i in range(number)],
        "created_at": datetime(2026, 3, 1, 10, number, 0, 123456, tzinfo=UTC),
        "retention_until": datetime(2033, 3, 1, tzinfo=UTC),
        "external_refs": {},
    }
    return SagaSnapshot(**{**values, **fields})


def every_type() -> SagaSnapshot:
    """A snapshot that needs the typed encoding, a lone surrogate in a name, no retention, a negative step."""
    return snapshot(
        9,
        saga_id=UUID("c0ffee00-0000-4000-8000-000000000002"),
        saga_name="odd \ud800 name",
        step_index=-1,
        status="failed",
        context=EVERY_TYPE,
        retention_until=None,
        external_refs={"label": "s3://labels/1.pdf"},
    )


COLUMNS = [
    "customer=Müller & Söhne\x1forder_id=ORD-1",
    "customer=Müller & Söhne\x1forder_id=ORD-1\x1forder_id=odd \\\\ \\u0001 \ud800",
    "customer=Müller & Söhne",
]
"""Columns of the plain samples, which only the golden files of version 2 have."""
PLAIN = [snapshot(number) for number in range(3)]
EXPIRES_US = 1_900_000_000_000_000
