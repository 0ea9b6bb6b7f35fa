"""Sets and dicts of elements that hash alike take Python quadratic time: they are refused, on save and on read."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from golden.samples import SAVED_US
from support.snapshots import make

from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.typed_json import Encoding, StoredObject, dumps, loads, private_copy
from sagaz_tiering.codec.typed_json.write import MOST_ALIKE
from sagaz_tiering.codec.unsupported import Texts
from sagaz_tiering.codec.value import encode
from sagaz_tiering.errors import CorruptRecord, NotSerializable

MODULUS = 2**61 - 1
MANY = 60_000
"""Two minutes to build one set of."""

KINDS: dict[str, Callable[[int], Any]] = {
    "int": lambda i: MODULUS * i,
    "uuid": lambda i: UUID(int=MODULUS * i),
    "decimal": lambda i: Decimal(MODULUS * i),
    "tuple": lambda i: (MODULUS * i, 1),
    "frozenset": lambda i: frozenset([MODULUS * i]),
}


def written(kind: str, count: int) -> list[str]:
    """JSON of so many elements that hash alike."""
    return [dumps(KINDS[kind](i), "")[1].decode() for i in range(3, count + 3)]


@pytest.mark.parametrize("kind", ["int", "uuid", "decimal", "tuple", "frozenset"])
@pytest.mark.parametrize("tag", ["~set", "~frozenset", "~dict"])
@pytest.mark.guarantee("G6")
def test_colliding_elements_are_refused_on_read(kind: str, tag: str) -> None:
    """In linear time and by name, whatever they are elements of; no set is begun."""
    items = written(kind, 5_000)
    rows = [f"[{item},0]" for item in items] if tag == "~dict" else items
    body = f'{{"a":{{"{tag}":[{",".join(rows)}]}}}}'.encode()
    with pytest.raises(CorruptRecord, match="more than 256 elements that hash alike"):
        loads(Encoding.TYPED, body)


@pytest.mark.guarantee("G6")
def test_many_colliding_integers_end_at_once() -> None:
    """Two megabytes of them, read in pieces: this was two minutes."""
    items = ",".join(f'{{"~int":"{hex(MODULUS * i)}"}}' for i in range(10, MANY))
    with pytest.raises(CorruptRecord, match="hash alike"):
        loads(Encoding.TYPED, f'{{"~set":[{items}]}}'.encode())


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("shape", ["set", "frozenset", "dict"])
@pytest.mark.guarantee("G4")
def test_colliding_elements_are_refused_on_save(shape: str, large: bool) -> None:
    """What could not be read is not written; the refusal names the place and what to do."""
    items = [MODULUS * i for i in range(MOST_ALIKE + 1)]
    value: Any = dict.fromkeys(items) if shape == "dict" else set(items) if shape == "set" else frozenset(items)
    context = {"pad": ["x"] * 30_000 if large else [], "here": [value]}
    with pytest.raises(NotSerializable, match=r"context\.here\[0\].*hash alike") as told:
        encode(make(1, context=context), saved_us=SAVED_US)
    assert "list" in told.value.hint
    assert private_copy(context, 2**30) is context


def test_as_many_as_are_allowed_come_back() -> None:
    """The limit is on what hashes alike, not on how many there are."""
    value = {MODULUS * i for i in range(MOST_ALIKE)} | set(range(1, 3_000)) | {str(i) for i in range(3_000)}
    encoding, body = dumps({"a": value})
    assert loads(encoding, body) == {"a": value}


async def test_colliding_elements_are_refused_where_texts_are_allowed() -> None:
    """A set is not rebuilt for the sake of what else is replaced."""
    context = {"a": {MODULUS * i for i in range(MOST_ALIKE + 1)}, "b": object()}
    with pytest.raises(NotSerializable, match="hash alike"):
        await encode_record(make(1, context=context), saved_us=SAVED_US, texts=Texts("memory"))


def test_objects_of_unknown_classes_hash_by_their_fields() -> None:
    """A large set of frozen objects is read where their class is not registered, and none is taken for an attack."""
    items = [{"~object": ["shop.Item", {"number": i, "tags": []}]} for i in range(2 * MOST_ALIKE)]
    found = loads(Encoding.TYPED, json.dumps({"~set": items}).encode())
    assert StoredObject("shop.Item", {"number": 7, "tags": []}) in found
    assert len(found) == 2 * MOST_ALIKE
