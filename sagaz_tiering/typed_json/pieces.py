"""Writing a large value: the bytes of the writing in one go, in calls that each take about a millisecond.

orjson, the json module and the comparison of two values are C functions that no other thread can interrupt. For
10 MB each takes 20 to 200 ms, in which an event loop stands still whatever thread makes the call.
"""

from __future__ import annotations

import json
from bisect import bisect
from typing import Any, Final

import orjson

from sagaz_tiering.typed_json.freezing import Large
from sagaz_tiering.typed_json.tagging import tag

NATIVE_ONLY: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)

_SORTED_AT_ONCE: Final = 5_000

# Every cycle is over MAX_DEPTH, so json need not look for them.
_encode_tagged: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


class NotExact(Exception):
    """The value would not come back equal from ordinary JSON."""


def plain_text(value: Any) -> bytes:
    """`value`, of exact JSON types, as ordinary JSON; raises NotExact (or orjson's TypeError) if that is not exact."""
    data = orjson.dumps(value, option=NATIVE_ONLY)
    if orjson.loads(data) != value:
        raise NotExact
    return data


def tagged_text(value: Any) -> bytes:
    """A tree that `tag` made, as JSON."""
    # Lone surrogates as bytes: written as \ud83d\ude00 escapes, two of them would come back as one character.
    return _encode_tagged(value).encode("utf-8", "surrogatepass")


def plain_pieces(frozen: Any) -> list[bytes]:
    """What `plain_text` gives, cut somewhere; raises what it raises. Of lists and dicts only."""
    out: list[bytes] = []
    _write_plain(frozen, out)
    return out


def typed_pieces(frozen: Any) -> list[bytes]:
    """What `tagged_text(tag(value))` gives, cut somewhere. Raises Refused, without the path."""
    out: list[bytes] = []
    _write_typed(frozen, 0, out)
    return out


def _write_plain(value: Any, out: list[bytes]) -> None:
    if type(value) is not Large:
        out.append(plain_text(value))
        return
    out.append(b"{" if value.kind is dict else b"[")
    for part in value.parts:
        if type(part) is Large:
            _write_plain(part, out)
        elif type(part) is tuple:
            out.append(plain_text({part[0]: None})[1:-5])
            _write_plain(part[1], out)
        else:
            out.append(plain_text(part)[1:-1])
        out.append(b",")
    out[-1] = b"}" if value.kind is dict else b"]"


def _write_typed(value: Any, depth: int, out: list[bytes]) -> None:
    if type(value) is not Large:
        out.append(tagged_text(tag(value, depth)))
    elif value.type_name:
        out.append(b'{"~object":[' + tagged_text(value.type_name) + b",")
        _write_dict(value, depth + 1, out)
        out.append(b"]}")
    elif value.kind is dict:
        _write_dict(value, depth + 1, out)
    elif value.kind is list:
        _write_row(value, depth + 1, out)
    elif value.kind is tuple:
        out.append(b'{"~tuple":')
        _write_row(value, depth + 1, out)
        out.append(b"}")
    else:
        out.append(b'{"~set":[' if value.kind is set else b'{"~frozenset":[')
        _write_set(value, depth + 1, out)
        out.append(b"]}")


def _write_row(value: Large, depth: int, out: list[bytes]) -> None:
    out.append(b"[")
    for part in value.parts:
        if type(part) is Large:
            _write_typed(part, depth, out)
        else:
            out.append(tagged_text([tag(item, depth) for item in part])[1:-1])
        out.append(b",")
    out[-1] = b"]"


def _write_dict(value: Large, depth: int, out: list[bytes]) -> None:
    plain = all(map(_has_plain_keys, value.parts))
    out.append(b"{" if plain else b'{"~dict":[')
    for part in value.parts:
        if type(part) is tuple:
            key, item = part
            out.append(tagged_text(key) + b":" if plain else b"[" + tagged_text(tag(key, depth)) + b",")
            _write_typed(item, depth, out)
            out.append(b"," if plain else b"],")
        elif plain:
            out.append(tagged_text({key: tag(item, depth) for key, item in part.items()})[1:-1])
            out.append(b",")
        else:
            out.append(tagged_text([(tag(key, depth), tag(item, depth)) for key, item in part.items()])[1:-1])
            out.append(b",")
    out[-1] = out[-1][:-1] + (b"}" if plain else b"]}")


def _has_plain_keys(part: Any) -> bool:
    keys = (part[0],) if type(part) is tuple else part
    return all(type(key) is str and not key.startswith("~") for key in keys)


def _write_set(value: Large, depth: int, out: list[bytes]) -> None:
    items = _sorted_by_text([tag(item, depth) for part in value.parts for item in part])
    for at in range(0, len(items), _SORTED_AT_ONCE):
        out.append(tagged_text(items[at : at + _SORTED_AT_ONCE])[1:-1])
        out.append(b",")
    out.pop()


def _sorted_by_text(items: list[Any]) -> list[Any]:
    """As `tag` sorts the elements of sets, in buckets: to sort a million texts in one call takes a second."""
    bounds = sorted(map(_text, items[:: _SORTED_AT_ONCE // 16]))[::16]
    buckets: list[list[tuple[str, int]]] = [[] for _ in range(len(bounds) + 1)]
    for index, item in enumerate(items):
        text = _text(item)
        buckets[bisect(bounds, text)].append((text, index))
    found: list[Any] = []
    for bucket in buckets:
        bucket.sort()
        found += [items[index] for _, index in bucket]
        bucket.clear()
    return found


def _text(item: Any) -> str:
    return json.dumps(item)
