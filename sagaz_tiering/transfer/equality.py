"""Whether what a target holds is what the source gave: types too, which `==` does not see (1 == 1.0 == True)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sagaz_tiering.codec import typed_json
from sagaz_tiering.codec.threaded import LARGE_BYTES, encode_record
from sagaz_tiering.codec.value import MAX_BODY_BYTES, Record
from sagaz_tiering.snapshot import SagaSnapshot

_NO_SAVE_TIME = 0


async def record_of(snapshot: SagaSnapshot) -> Record:
    """The snapshot in the form that is compared. Raises NotSerializable, SnapshotTooLarge."""
    return await encode_record(snapshot, saved_us=_NO_SAVE_TIME, max_bytes=MAX_BODY_BYTES)


async def is_same(one: Record, other: Record) -> bool:
    """Whether both are the same snapshot, to the type of every value; the order of keys in a dict is free."""
    if one.meta._replace(body_crc=0) != other.meta._replace(body_crc=0) or one.encoding != other.encoding:
        return False
    if one.body == other.body:
        return True
    if len(one.body) != len(other.body):  # the same values take the same room in any order
        return False
    if len(one.body) < LARGE_BYTES:
        return _in_any_order(one.body) == _in_any_order(other.body)
    return await asyncio.to_thread(lambda: _in_any_order(one.body) == _in_any_order(other.body))


def is_same_replay(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are the same replay record, to the type of every value. Raises NotSerializable."""
    (encoding, body), (other_encoding, other_body) = typed_json.dumps(one, path=""), typed_json.dumps(other, path="")
    same = encoding == other_encoding and len(body) == len(other_body)
    return same and (body == other_body or _in_any_order(body) == _in_any_order(other_body))


def _in_any_order(body: bytes) -> str:
    """JSON text with the keys of every object sorted; it tells 1, 1.0 and true apart, as `==` of values would not."""
    return json.dumps(json.loads(body.decode("utf-8", "surrogatepass")), sort_keys=True)
