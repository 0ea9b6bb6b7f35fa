"""What sagas are found and ruled by: extracted from contexts, as one text that everything keeps."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_tiering import attributes
from sagaz_tiering.attributes import (
    Attribute,
    Attributes,
    canonical,
    column,
    key_of,
    parse,
    token,
    tokens_of,
    values_of,
)
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.snapshot import ReplayStatus

KEY = bytes(range(32))
TEXTS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40)
VALUES = st.one_of(
    TEXTS,
    st.integers(),
    st.floats(),
    st.decimals(),
    st.booleans(),
    st.none(),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
)
CONTEXTS = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
)


def define(path: str, *, name: str = "order_id", of: str = "*", hash_key: bytes | None = None) -> Attribute:
    return Attribute(
        name=name, path=tuple(path.split(".")), of_saga=lambda saga: fnmatchcase(saga, of), hash_key=hash_key
    )


def values_at(path: str, context: dict[str, Any]) -> list[str]:
    """The texts found there, and nothing left out."""
    found = Attributes([define(path)]).of("order", context)
    assert not found.left_out
    return values_of(found.column).get("order_id", [])


class _Zone(tzinfo):
    """A time zone of somebody's own, that says what no zone may."""

    def __init__(self, says: Any) -> None:
        self._says = says

    def utcoffset(self, _: Any) -> Any:
        if isinstance(self._says, Exception):
            raise self._says
        return self._says


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("A-17", "A-17"),
        (" a b ", " a b "),
        (17, "17"),
        (17.0, "17"),
        (-0.0, "0"),
        (17.50, "17.5"),
        (1e22, "10000000000000000000000"),
        (1e-7, "0.0000001"),
        (Decimal("17.500"), "17.5"),
        (Decimal("1.7E+3"), "1700"),
        (Decimal("123456789012345678901234567890.1230"), "123456789012345678901234567890.123"),
        (True, "true"),
        (False, "false"),
        (UUID("6BA7B810-9DAD-11D1-80B4-00C04FD430C8"), "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        (date(2026, 3, 1), "2026-03-01"),
        (datetime.fromisoformat("2026-03-01T12:30:00"), "2026-03-01T12:30:00"),
        (datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2026-02-28T23:00:00+00:00"),
        (ReplayStatus.FAILED, "failed"),
    ],
)
def test_values_have_one_text_each(value: object, text: str) -> None:
    """Equal values have equal texts, whatever type they came as."""
    assert canonical(value) == text


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", b"bytes", {}, {"a": 1}, float("nan"), float("-inf"), Decimal("sNaN"), Decimal("Infinity"), time(1)),
        *(datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), object(), 1j),
        *(datetime(2026, 3, 1, tzinfo=_Zone(says)) for says in (timedelta(hours=25), "one hour", RuntimeError())),
    ],
)
def test_what_is_no_value_has_no_text(value: object) -> None:
    """Nothing, an empty text, and types that nobody types into a search."""
    assert canonical(value) is None


def test_paths_lead_through_dicts_and_lists() -> None:
    """Every element of a list on the way or at the end gives its value, in lists of lists and tuples and sets too."""
    order = {"id": "A-17", "lines": [{"sku": "x"}, {"sku": ["y", "z"]}, {}, "no dict", None, [({"sku": "w"},)]]}
    assert values_at("order.id", {"order": order}) == ["A-17"]
    assert values_at("order.lines.sku", {"order": order}) == ["w", "x", "y", "z"]
    assert values_at("tags", {"tags": {"b", "a", 1}}) == ["1", "a", "b"]
    assert values_at("order.id.more", {"order": order}) == []
    assert values_at("missing.id", {"order": order}) == []
    assert values_at("order", {"order": order}) == []
    assert values_at("a.a", {"a": [[{"a": 1}], {"a": [1, 1.0, True]}]}) == ["1", "true"]


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.dictionaries(st.sampled_from("abc"), CONTEXTS, max_size=3))
def test_extraction_takes_any_context_and_keeps_the_limits(context: dict[str, Any]) -> None:
    """Whatever is there: distinct sorted tokens, never over the limits, and each can be read back."""
    found = Attributes([define("a.b"), define("a", name="a")]).of("order", context)
    tokens = tokens_of(found.column)
    assert tokens == sorted(set(tokens))
    assert column(tokens) == found.column
    for texts in values_of(found.column).values():
        assert len(texts) <= attributes.MAX_VALUES
        assert all(len(text.encode("utf-8", "surrogatepass")) <= attributes.MAX_VALUE_BYTES for text in texts)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["a", "b_2"]), TEXTS), max_size=6))
def test_columns_come_back_whatever_is_in_the_values(pairs: list[tuple[str, str]]) -> None:
    """Separators, backslashes, control characters, lone surrogates and NUL are one value's own."""
    text = column(token(name, value) for name, value in pairs)
    assert {parse(one) for one in tokens_of(text)} == set(pairs)
    assert not {char for one in tokens_of(text) for char in one if char < " "}


@pytest.mark.parametrize(
    "value", ["a\x1fb", "a\x1eb", "\\u001f", "\x00", "\ud800", "a=b", "\\", "=", "\x1forder_id=A-17"]
)
def test_hostile_values_are_no_other_value(value: str) -> None:
    """A value that looks like the form of columns is found by itself and by nothing else."""
    ours = Attributes([define("id")])
    found = ours.of("order", {"id": value})
    assert tokens_of(found.column) == [ours.token("order_id", value)]
    assert values_of(found.column) == {"order_id": [value]}
    assert ours.token("order_id", "A-17") not in tokens_of(found.column)


def test_values_over_the_limits_are_left_out_and_told() -> None:
    """256 bytes of UTF-8, sixteen values, one column's length; the first values stay."""
    ours = Attributes([define("ids")])
    edge = "é" * 128
    assert values_of(ours.of("order", {"ids": edge}).column) == {"order_id": [edge]}
    for long in (edge + "x", "x" * 257, 10**256, 10**5000, Decimal("1E+1000000"), Decimal("1E-1000000"), 1.5e300):
        assert ours.of("order", {"ids": [long, "kept"]}) == ("order_id=kept", [("order_id", "too_long")])
    many = ours.of("order", {"ids": [*range(100, 116), 100, 105, 116, 117]})
    assert values_of(many.column) == {"order_id": [str(number) for number in range(100, 116)]}
    assert many.left_out == [("order_id", "too_many")]
    full = Attributes([define("ids", name=f"n{number}") for number in range(40)])
    packed = full.of("order", {"ids": [f"{number:02}" + "\x01" * 250 for number in range(16)]})
    assert 60_000 < len(packed.column.encode()) <= attributes.MAX_COLUMN_BYTES
    assert ("n9", "too_many") in packed.left_out


def test_only_the_path_of_a_large_context_is_walked() -> None:
    """Ten megabytes beside the path cost nothing, and lists at the path a bounded time, even one in itself."""
    beside: dict[str, Any] = {"rows": [{"text": "x" * 100} for _ in range(100_000)], "order": {"id": "A-17"}}
    tracemalloc.start()
    assert values_at("order.id", beside) == ["A-17"]
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    itself: list[Any] = []
    itself += [itself, 1]
    for endless in (itself, [None] * 1_000_000, [[{}] * 1000] * 1000, [7] * 1_000_000, frozenset(range(20_000))):
        found = Attributes([define("a")]).of("order", {"a": endless})
        assert found.left_out == [("order_id", "too_many")]


def test_attributes_are_those_of_the_saga_s_name() -> None:
    """One that is for other sagas is not looked for."""
    ours = Attributes([define("id", of="order-*"), define("id", name="any_id")])
    assert ours.of("order-eu", {"id": 1}).column == "any_id=1\x1forder_id=1"
    assert ours.of("payment", {"id": 1}).column == "any_id=1"
    assert ours.names == ("order_id", "any_id")


def test_hashed_values_show_nothing_and_are_found_all_the_same() -> None:
    """A keyed hash of name and value: 32 hex digits, another with another key or name."""
    ours, others = (Attributes([define("id", hash_key=key)]) for key in (KEY, KEY[::-1]))
    found = ours.of("order", {"id": ["A-17", 17.0]})
    assert "A-17" not in found.column
    assert sorted(tokens_of(found.column)) == sorted([ours.token("order_id", "A-17"), ours.token("order_id", 17)])
    assert ours.token("order_id", 17) != others.token("order_id", 17)
    assert ours.token("order_id", "A-17") == "order_id=529e581a09f15f075c27556fbb9b1e74"
    assert KEY.hex() not in repr(define("id", hash_key=KEY))
    assert str(KEY) not in repr(define("id", hash_key=KEY))


def test_questions_that_cannot_be_answered_are_errors() -> None:
    """A name that is not configured, no value, and a value that is never kept; each says what to do."""
    ours = Attributes([define("id")])
    with pytest.raises(ConfigError, match="no attribute 'oder_id' is configured") as wrong:
        ours.token("oder_id", 1)
    assert "order_id" in wrong.value.hint
    for value in (None, "", {}, "x" * 257):
        with pytest.raises(ConfigError, match="attribute order_id"):
            ours.token("order_id", value)


def test_key_of_a_token_is_pinned() -> None:
    """The first eight bytes of its SHA-256, as PostgreSQL computes them too."""
    assert key_of("order_id=A-17") == int.from_bytes(bytes.fromhex("572cf91d4e479459"), "big", signed=True)
