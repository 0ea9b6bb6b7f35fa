"""Dataclasses and pydantic models that are registered come back equal; nothing of others is lost (guarantee G4)."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel
from pydantic import dataclasses as pydantic_dataclasses

import sagaz_tiering
from sagaz_tiering import StoredObject, register_type
from sagaz_tiering.codec.typed_json import Encoding, Shape, classes, dumps, loads, private_copy, shape_of
from sagaz_tiering.errors import NotSerializable
from sagaz_tiering.storage.postgresql.rows import queryable_value

T = TypeVar("T")


@register_type
@dataclass
class Money:
    amount: Decimal
    currency: str = "EUR"


@register_type
@dataclass(frozen=True, slots=True)
class Place:
    x: int
    y: int = field(default=0, compare=False)


@register_type
@dataclass
class Basket:
    lines: list[Money]
    made: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.made = ["in __post_init__"]

    @cached_property
    def total(self) -> Decimal:
        return sum((line.amount for line in self.lines), Decimal(0))


@register_type
@dataclass
class Premium(Money, Generic[T]):
    level: int = 1


@register_type
@pydantic_dataclasses.dataclass
class Checked:
    n: int


@register_type
class Order(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    id: int
    price: Money | None = None
    at: datetime = Field(default=datetime(2026, 1, 1, tzinfo=UTC), alias="when")
    _seen: list[int] = PrivateAttr(default_factory=list)


@register_type
class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    n: int = 1
    inner: Order | None = None


@register_type
class Numbers(RootModel[list[int]]):
    pass


class Unknown(BaseModel):
    n: int = 1


def round_trip(value: Any) -> Any:
    return loads(*dumps(value))


def seen_order() -> Order:
    order = Order(id=7, price=Money(Decimal("9.90")), note="extra")
    order._seen.append(3)
    return order


def values() -> list[Any]:
    basket = Basket([Money(Decimal("1.10")), Money(Decimal(2), "USD")])
    basket.made.append("changed")
    assert basket.total == Decimal("3.10")
    return [
        *(Money(Decimal("1.10")), Place(1, 2), basket, Premium(Decimal(1), "EUR", 2), Checked(3)),
        *(seen_order(), Order.model_construct(id="not validated"), Strict(), Strict(n=1, inner=seen_order())),
        *(Numbers([1, 2]), Order(id=1, when=datetime(2026, 5, 5, tzinfo=UTC))),
        {"a": [Place(1), (Place(2),)], Place(3): {Place(4), Place(5)}},
    ]


@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("value", values(), ids=lambda value: type(value).__name__)
def test_registered_objects_come_back_equal(value: Any) -> None:
    """Of the same class with the same fields: frozen, with slots, generic, nested, as elements and keys."""
    encoding, data = dumps({"v": value})
    assert encoding is Encoding.TYPED
    found = loads(encoding, data)["v"]
    assert type(found) is type(value)
    assert found == value
    assert dumps({"v": found}) == (encoding, data)
    if isinstance(value, BaseModel):
        assert found.model_fields_set == value.model_fields_set
        assert found.model_dump(exclude_unset=True, warnings=False) == value.model_dump(
            exclude_unset=True, warnings=False
        )
        assert found.__pydantic_private__ == value.__pydantic_private__


def test_fields_that_are_not_compared_come_back_too() -> None:
    """Equality is not all: what a class leaves out of it is stored as well."""
    assert round_trip(Place(1, 2)).y == 2
    assert round_trip(Basket([])).made == ["in __post_init__"]


@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("value", values(), ids=lambda value: type(value).__name__)
def test_where_the_class_is_not_known_the_fields_are_kept(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process reads a dict of the fields, shows and copies it, and stores the same bytes again."""
    encoded = dumps({"v": value})
    monkeypatch.setattr(classes, "_class_by_name", {})
    monkeypatch.setattr(classes, "_name_by_class", {})
    found = loads(*encoded)
    assert dumps(found) == encoded
    assert dumps(copy.deepcopy(found)) == dumps(pickle.loads(pickle.dumps(found))) == encoded
    assert queryable_value(found).startswith(b'{"v":')
    if type(value) is Money:
        assert type(found["v"]) is StoredObject
        assert dict(found["v"]) == {"amount": Decimal("1.10"), "currency": "EUR"}
        assert found["v"].type_name == f"{__name__}.Money"
        assert repr(found["v"]) == f"{__name__}.Money(amount=Decimal('1.10'), currency='EUR')"


def test_a_class_that_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """New fields have their defaults; where one has none, or a stored one is gone, the fields come back as they are."""
    money, order = dumps(Money(Decimal(1))), dumps(Strict())

    @dataclass
    class More:
        amount: Decimal
        currency: str
        tags: list[str] = field(default_factory=list)
        rate: int = 3

    @dataclass
    class Needs:
        amount: Decimal
        currency: str
        rate: int

    @dataclass
    class Less:
        amount: Decimal

    class Wider(BaseModel):
        n: int
        inner: Any
        tags: list[str] = Field(default_factory=lambda: ["new"])

    names: dict[str, type] = {}
    monkeypatch.setattr(classes, "_class_by_name", names)
    names[f"{__name__}.Money"], names[f"{__name__}.Strict"] = More, Wider
    assert loads(*money) == More(Decimal(1), "EUR", [], 3)
    assert loads(*order) == Wider(n=1, inner=None, tags=["new"])
    for changed in (Needs, Less):
        names[f"{__name__}.Money"] = changed
        found = loads(*money)
        assert type(found) is StoredObject
        assert dict(found) == {"amount": Decimal(1), "currency": "EUR"}
    names[f"{__name__}.Strict"] = Unknown
    assert type(loads(*order)) is StoredObject


def test_what_is_more_than_its_fields_is_refused() -> None:
    """With the path and what to do: an attribute beside the fields, a field without a value, a value in a field."""
    odd = Money(Decimal(1))
    odd.note = "beside"  # type: ignore[attr-defined]  # that is the point
    empty = object.__new__(Place)
    for value, said in (
        ({"a": odd}, "context.a: .*Money has an attribute 'note' that is no field"),
        ({"a": empty}, "context.a: .*Place has no value for its field 'x'"),
        ({"a": [Basket([object()])]}, r"context.a\[0\].lines\[0\]: object cannot be stored"),  # type: ignore[list-item]
        ({"o": Strict(inner=Order(id=1, bad=object()))}, "context.o.inner._extra.bad: object cannot be stored"),
        ({"u": Unknown()}, "context.u: .*Unknown is a model object that is not registered"),
    ):
        with pytest.raises(NotSerializable, match=said) as refused:
            dumps(value)
        assert "What a context may hold" in refused.value.hint
    cycle = Basket([])
    cycle.lines.append(cycle)  # type: ignore[arg-type]
    with pytest.raises(NotSerializable, match="a cycle"):
        dumps({"c": cycle})


@pytest.mark.parametrize("cls", [int, Exception, "Money", type("Sub", (Money,), {}), dataclass(type("D", (dict,), {}))])
def test_only_dataclasses_and_models_are_registered(cls: Any) -> None:
    """Anything else is an error at once, a subclass of a registered one too if it is none itself."""
    with pytest.raises(TypeError, match="register_type"):
        register_type(cls)


def test_subclasses_are_registered_themselves() -> None:
    """An object of a subclass would come back as one of its base."""

    @dataclass
    class Gold(Money):
        carat: int = 24

    with pytest.raises(NotSerializable, match="Gold is a dataclass that is not registered"):
        dumps({"g": Gold(Decimal(1))})


@pytest.mark.guarantee("G4")
def test_large_objects_are_written_in_pieces() -> None:
    """Objects of megabytes, and many in one context: the same bytes as in one go, and equal afterwards."""
    many = {"many": [Money(Decimal(n), "x" * 40) for n in range(11_000)], "o": Order(id=1, big=["y" * 900] * 900)}
    one = Basket([Money(Decimal(n)) for n in range(11_000)])
    for value in (many, {"one": one}, one):
        assert shape_of(value) is Shape.LARGE
        encoded = dumps(value)
        assert encoded == dumps(value, shape=Shape.TYPED)
        assert loads(*encoded) == value
    assert dumps(private_copy(many, 2**20)) == dumps(many)


def test_a_private_copy_is_of_objects_too() -> None:
    """What another thread encodes does not change with the object."""
    basket = Basket([Money(Decimal(1))])
    taken, before = private_copy({"b": basket}, 2**20), dumps({"b": basket})
    basket.lines.append(Money(Decimal(2)))
    basket.lines[0].currency = "USD"
    assert dumps(taken) == before


def test_hostile_objects_are_refused() -> None:
    """Text that nobody wrote is not taken for an object, and names no code to run."""
    for text in (
        b'{"~object":["a"]}',
        b'{"~object":[1,{}]}',
        b'{"~object":["a",[]]}',
        b'{"~object":["a",{"~dict":[[1,2]]}]}',
    ):
        with pytest.raises(sagaz_tiering.errors.CorruptRecord):
            loads(Encoding.TYPED, text)
    found = loads(Encoding.TYPED, b'{"~object":["os.system",{"command":"true"}]}')
    assert type(found) is StoredObject
