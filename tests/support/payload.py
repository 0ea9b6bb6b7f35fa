"""Deterministic realistic snapshots: an order saga of five steps whose context grows to about 10 KB of JSON.

Saga number `i` of a seed is always the same, whatever the count. Names, texts and prices repeat as they do in
a real shop, ids and codes do not, so that compression behaves as in production.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from sagaz_tiering.snapshot import SagaSnapshot

SAGA_NAME = "order-processing"
STEPS = ("check_order", "reserve_stock", "take_payment", "book_transport", "tell_customer")
START = datetime(2026, 3, 1, tzinfo=UTC)
SECONDS_BETWEEN_SAGAS = 7

_GOODS = (
    "Steel water bottle 0.75 l",
    "Wool blanket, undyed",
    "Folding bicycle lock",
    "Cast-iron pan 28 cm",
    "Notebook, dotted, A5",
    "Rechargeable head torch",
    "Hiking socks, merino",
    "Bluetooth keyboard",
    "Espresso cups, set of six",
    "Garden hose 25 m",
    "Rain jacket",
    "Desk lamp, dimmable",
)
_PLACES = (
    ("Gdańsk", "PL", "80-001"),
    ("Utrecht", "NL", "3511"),
    ("Málaga", "ES", "29001"),
    ("Nagoya", "JP", "450-0002"),
    ("Curitiba", "BR", "80010"),
    ("Leipzig", "DE", "04103"),
    ("Halifax", "CA", "B3H 0A1"),
)
_PEOPLE = ("Ada Nowak", "Björn Åberg", "Chiara Conti", "Diego Núñez", "Emeka Obi", "Fumi Sato", "Greta Weiß")
_STREETS = ("Lindenweg", "Church Lane", "Calle Mayor", "Rua das Flores", "Stationsplein", "Sakura-dori")
_WISHES = (
    *("leave", "it", "with", "the", "neighbour", "please", "ring", "twice", "gift", "wrap", "blue", "one"),
    *("no", "paper", "invoice", "thank", "you", "back", "door", "before", "noon", "call", "first"),
)
_STORES = tuple(f"WH-{city}-{hall:02d}" for city in ("POZ", "RTM", "LEJ") for hall in range(1, 9))


def snapshots(
    count_of_sagas: int,
    *,
    start: int = 0,
    created_at: datetime = START,
    seed: int = 1,
    retention_until: datetime | None = None,
    saga_name: str = SAGA_NAME,
) -> Iterator[SagaSnapshot]:
    """Five snapshots each of the sagas `start` … `start + count_of_sagas - 1`, in the order they were taken.

    Saga `start` begins at `created_at`, the next ones SECONDS_BETWEEN_SAGAS later each.
    """
    for position in range(count_of_sagas):
        begun = created_at + timedelta(seconds=SECONDS_BETWEEN_SAGAS * position)
        yield from saga(start + position, begun=begun, seed=seed, retention_until=retention_until, saga_name=saga_name)


def saga(
    number: int,
    *,
    begun: datetime = START,
    seed: int = 1,
    retention_until: datetime | None = None,
    saga_name: str = SAGA_NAME,
) -> list[SagaSnapshot]:
    """The five snapshots of one saga, one after each step."""
    random = Random(f"{seed}:{number}")
    saga_id = _uuid(random)
    context = _order(random, number, begun)
    moment, found = begun, []
    for index, step in enumerate(STEPS):
        moment += timedelta(milliseconds=random.randint(30, 800), microseconds=random.randint(0, 999))
        context = context | {step: _result(random, step, context, moment)}
        found.append(
            SagaSnapshot(
                snapshot_id=_uuid(random),
                saga_id=saga_id,
                saga_name=saga_name,
                step_name=step,
                step_index=index,
                status="executing" if index < len(STEPS) - 1 else "completed",
                context=context,
                completed_steps=list(STEPS[: index + 1]),
                created_at=moment,
                retention_until=retention_until,
            )
        )
    return found


def _order(random: Random, number: int, begun: datetime) -> dict[str, Any]:
    lines = [_line(random, position) for position in range(1, random.randint(15, 20))]
    net = round(sum(line["total"] for line in lines), 2)
    return {
        "order": f"O-{10_000_000 + number}",
        "placed_at": begun.isoformat(),
        "channel": random.choice(("web", "app", "phone")),
        "currency": "EUR",
        "customer": {
            "id": str(_uuid(random)),
            "mail": f"customer{random.randint(1, 10**7)}@example.com",
            "class": random.choice(("new", "regular", "business")),
            "consents": {"newsletter": random.random() < 0.4, "profiling": False},
        },
        "lines": lines,
        "sum": {"net": net, "tax": round(net * 0.19, 2), "gross": round(net * 1.19, 2)},
        "ship_to": _address(random),
        "bill_to": _address(random),
        "wishes": " ".join(random.choices(_WISHES, k=random.randint(8, 50))),
        "trace": {"trace_id": _hex(random, 32), "span_id": _hex(random, 16), "session": _hex(random, 48)},
    }


def _line(random: Random, position: int) -> dict[str, Any]:
    pieces, price = random.randint(1, 4), round(random.uniform(4, 400), 2)
    return {
        "position": position,
        "line_id": str(_uuid(random)),
        "article": f"A{random.randint(10**6, 10**7 - 1)}",
        "title": random.choice(_GOODS),
        "pieces": pieces,
        "unit_price": price,
        "total": round(pieces * price, 2),
        "tax_rate": random.choice((0.07, 0.19)),
        "ean": str(random.randint(10**12, 10**13 - 1)),
        "properties": {
            "colour": random.choice(("black", "natural", "blue", "red")),
            "size": random.choice(("S", "M", "L", None)),
            "weight_g": random.randint(60, 7000),
            "breakable": random.random() < 0.2,
        },
        "stock": {"store": random.choice(_STORES), "shelf": f"{random.randint(1, 80)}-{random.randint(1, 9)}"},
    }


def _address(random: Random) -> dict[str, Any]:
    city, country, code = random.choice(_PLACES)
    return {
        "name": random.choice(_PEOPLE),
        "street": f"{random.choice(_STREETS)} {random.randint(1, 180)}",
        "extra": f"floor {random.randint(1, 9)}" if random.random() < 0.3 else None,
        "city": city,
        "postal_code": code,
        "country": country,
        "position": [round(random.uniform(-60, 70), 6), round(random.uniform(-170, 170), 6)],
    }


def _result(random: Random, step: str, context: dict[str, Any], moment: datetime) -> dict[str, Any]:
    at = moment.isoformat()
    if step == "check_order":
        rules = ("address", "stock", "credit", "sanctions")
        return {"at": at, "rules": [{"rule": r, "ok": True, "ms": round(random.uniform(0.1, 9), 3)} for r in rules]}
    if step == "reserve_stock":
        until = (moment + timedelta(minutes=30)).isoformat()
        held = [{"hold": str(_uuid(random)), "article": x["article"], "until": until} for x in context["lines"]]
        return {"at": at, "holds": held}
    if step == "take_payment":
        method = random.choice(("card", "transfer", "wallet"))
        amount = context["sum"]["gross"]
        return {
            "at": at,
            "method": method,
            "payment": f"pay_{_hex(random, 24)}",
            "amount": amount,
            "code": _hex(random, 40),
        }
    if step == "book_transport":
        label = f"https://labels.example.com/{_hex(random, 32)}.pdf"
        return {"at": at, "carrier": random.choice(("DHL", "GLS", "DPD")), "parcel": str(_uuid(random)), "label": label}
    return {"at": at, "messages": [{"by": by, "id": _hex(random, 24)} for by in ("mail", "push")]}


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)


def _hex(random: Random, digits: int) -> str:
    return f"{random.getrandbits(4 * digits):0{digits}x}"
