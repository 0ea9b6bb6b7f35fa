"""Snapshot <-> Record (metadata and JSON body) <-> the bytes of one value, as Redis and PostgreSQL keep it.

A value is big-endian, with fields at fixed offsets, since Lua scripts read them too:

     0  u8   format, 1                           36  u32  length of the raw body
     1  u8   body: 0 raw, 1, 2 zstd (dictionary) 40  u32  crc32 of the raw body
     2  u8   encoding: 0 plain, 1 typed JSON     44  8s   dictionary id, zeros for none
     3  u8   flags: 1 a pack holds it too,       52  16s  snapshot id
             2 attributes after the names        68  16s  saga id
     4  u32  header length (the body's offset)   84  saga name, step name, status: each u32 length + UTF-8
     8  i64  saved_us                                (surrogatepass); then, if flagged, attributes and their
    16  i64  created_us                              u16 length (`codec.header`); then the body
    24  i64  retention_us, 2^63-1 for none
    32  i32  step index

The body is the typed JSON of `{"context": .., "completed_steps": [..], "external_refs": {..}}`. Every value says
how it is compressed, so that can change at any time over existing data. Full description: docs/pack-format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.codec.header import (
    BODY_RAW,
    BODY_ZSTD,
    BODY_ZSTD_DICTIONARY,
    FLAG_ATTRIBUTES,
    FLAG_IN_PACK,
    OFFSET_CREATED_US,
    OFFSET_FLAGS,
    OFFSET_NAMES,
    OFFSET_SAVED_US,
    body_crc,
    read_names,
    write_names,
)
from sagaz_tiering.codec.typed_json import Encoding, PastBudget, Shape, dumps, loads, shape_of
from sagaz_tiering.codec.zstd import NO_DICTIONARIES, Dictionary, NotZstd, compress, decompress, decompress_many
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot, NotSerializable, SnapshotTooLarge
from sagaz_tiering.snapshot import MAX_TIME, MIN_TIME, SagaSnapshot, SnapshotMeta, uuid_of

VALUE_FORMAT: Final = 1
_BODY_CODECS: Final = (BODY_RAW, BODY_ZSTD, BODY_ZSTD_DICTIONARY)

NO_EXPIRY_US: Final = 2**63 - 1
"""How "never" is written where an i64 of microseconds belongs."""

MAX_SNAPSHOT_BYTES: Final = 32 * 1024 * 1024
"""Default limit of a raw body."""

MAX_BODY_BYTES: Final = 256 * 1024 * 1024
"""Raw body that is never exceeded, whatever limit is configured: what a reader is ready to allocate."""

MAX_NAME_BYTES: Final = 65_535
"""Longest saga name, step name or status in UTF-8."""

MIN_US: Final = to_micros(MIN_TIME)
MAX_US: Final = to_micros(MAX_TIME)

_FIXED: Final = struct.Struct(">BBBBIqqqiII8s16s16s")
_ENCODINGS: Final = {int(encoding): encoding for encoding in Encoding}
_I64: Final = struct.Struct(">q")
_NO_DICTIONARY: Final = bytes(8)
_BODY_KEYS: Final = ("context", "completed_steps", "external_refs")
_made: Final = tuple.__new__
"""Of a NamedTuple, from a tuple of all its fields: what the class itself does, in half of its time."""


class Record(NamedTuple):
    """A snapshot as it travels between tiers: what is known of it, and its body, not compressed."""

    meta: SnapshotMeta
    encoding: Encoding
    body: bytes


class Header(NamedTuple):
    """What a value says before its body; `length` is where the body begins, `raw_length` what it is decompressed.

    `dictionary_id` names the dictionary that the body is compressed with (None: with none).
    """

    meta: SnapshotMeta
    encoding: Encoding
    body_codec: int
    dictionary_id: bytes | None
    length: int
    raw_length: int


def body_shape(snapshot: SagaSnapshot) -> Shape:
    """How the body is to be written; LARGE if that takes so long that it should be done on a thread."""
    return shape_of(_body(snapshot))


def encode(
    snapshot: SagaSnapshot,
    *,
    saved_us: int,
    max_bytes: int = MAX_SNAPSHOT_BYTES,
    shape: Shape | None = None,
    attributes: str = "",
) -> Record:
    """The record of `snapshot`, saved at `saved_us` (microseconds since 1970 UTC), with that column of `attributes`.

    `shape` is its `body_shape`, where that is known.
    Raises NotSerializable (with the path of the value), SnapshotTooLarge (body over `max_bytes`), or InvalidSnapshot
    if another thread changes the snapshot meanwhile.
    """
    if not MIN_US <= saved_us < MAX_US:
        raise InvalidSnapshot(f"saved_us is not a time between {MIN_TIME.year} and {MAX_TIME.year}: {saved_us}")
    _check_shapes(snapshot)
    if len(snapshot.saga_name) + len(snapshot.step_name) + len(snapshot.status) > MAX_NAME_BYTES // 4:
        _check_names(snapshot)
    limit = min(max_bytes, MAX_BODY_BYTES)
    try:
        encoding, body = dumps(_body(snapshot), "", shape, limit)
    except PastBudget as exc:
        raise _too_large(snapshot, f"longer than the limit of {limit} bytes: {exc.where()} goes past it") from None
    if len(body) > limit:
        raise _too_large(snapshot, f"{len(body)} bytes, the limit is {limit}")
    meta = SnapshotMeta.of(snapshot, saved_us=saved_us, body_crc=body_crc(body), attributes=attributes)
    return _made(Record, (meta, encoding, body))


def _check_names(snapshot: SagaSnapshot) -> None:
    for name in ("saga_name", "step_name", "status"):
        if (size := len(text_bytes(getattr(snapshot, name)))) > MAX_NAME_BYTES:
            raise SnapshotTooLarge(f"{name} is {size} bytes, the limit is {MAX_NAME_BYTES}", hint="shorten it")


def _too_large(snapshot: SagaSnapshot, size: str) -> SnapshotTooLarge:
    which = f"snapshot {snapshot.snapshot_id} of saga {snapshot.saga_id} (step {snapshot.step_name!r:.80})"
    return SnapshotTooLarge(f"{which} is {size}")


def decode(record: Record) -> SagaSnapshot:
    """The snapshot of `encode`, equal to it. Raises CorruptRecord."""
    meta = record.meta
    if body_crc(record.body) != meta.body_crc:
        raise CorruptRecord(f"snapshot {meta.snapshot_id}: the body does not match its checksum")
    return _snapshot(record)


def decode_value(
    value: bytes, header: Header | None = None, dictionaries: Mapping[bytes, Dictionary] = NO_DICTIONARIES
) -> SagaSnapshot:
    """The snapshot of `to_value`; `header` is its `read_header`, if that is known. Raises CorruptRecord."""
    return _snapshot(from_value(value, header, dictionaries))  # whose checksum was just looked at


def _snapshot(record: Record) -> SagaSnapshot:
    meta, body = record.meta, loads(record.encoding, record.body)
    if type(body) is not dict or tuple(body) != _BODY_KEYS:
        raise CorruptRecord(f"snapshot {meta.snapshot_id}: the body is not a snapshot's")
    ends_us = meta.created_us if meta.retention_us is None else meta.retention_us
    if not (MIN_US <= meta.created_us < MAX_US and MIN_US <= ends_us < MAX_US):
        raise CorruptRecord(f"snapshot {meta.snapshot_id}: its times are damaged")
    snapshot = _known(meta, body)
    try:
        _check_shapes(snapshot)
    except InvalidSnapshot as exc:
        raise CorruptRecord(f"snapshot {meta.snapshot_id}: {exc}") from exc
    return snapshot


def _known(meta: SnapshotMeta, body: dict[str, Any]) -> SagaSnapshot:
    """The snapshot of what was read back and checked: its constructor would look at everything once more."""
    snapshot, until_us = object.__new__(SagaSnapshot), meta.retention_us
    times = from_micros(meta.created_us), None if until_us is None else from_micros(until_us)
    for name, found in zip(_FIELDS, (*meta[:6], *times, *body.values()), strict=True):
        object.__setattr__(snapshot, name, found)
    return snapshot


_FIELDS: Final = (*SnapshotMeta._fields[:6], "created_at", "retention_until", *_BODY_KEYS)


def to_value(
    record: Record, *, level: int | None, dictionary: Dictionary | None = None, in_pack: bool = False
) -> bytes:
    """The bytes to store. `level` is zstd's, None for no compression; the smaller form is kept.

    `in_pack` says that it is a copy of what a pack holds: a restore brought it back.
    """
    meta, body, codec, dictionary_id = record.meta, record.body, BODY_RAW, _NO_DICTIONARY
    if level is not None:
        packed = compress(body, level, dictionary)
        if len(packed) < len(body):
            body, codec = packed, BODY_ZSTD
            if dictionary is not None:
                codec, dictionary_id = BODY_ZSTD_DICTIONARY, dictionary.id
    names = write_names(meta)
    fixed = _FIXED.pack(
        VALUE_FORMAT,
        codec,
        record.encoding,
        (FLAG_IN_PACK if in_pack else 0) | (FLAG_ATTRIBUTES if meta.attributes else 0),
        OFFSET_NAMES + len(names),
        meta.saved_us,
        meta.created_us,
        NO_EXPIRY_US if meta.retention_us is None else meta.retention_us,
        meta.step_index,
        len(record.body),
        meta.body_crc,
        dictionary_id,
        meta.snapshot_id.bytes,
        meta.saga_id.bytes,
    )
    return b"".join((fixed, names, body))


def saved_at(meta: SnapshotMeta, value: bytes, saved_us: int) -> tuple[SnapshotMeta, bytes]:
    """The same value, saved at another instant (microseconds); the body is not touched.

    Raises CorruptRecord for an instant that no value can have: whoever asks has it from a store.
    """
    if not MIN_US <= saved_us < MAX_US:
        raise CorruptRecord(
            f"snapshot {meta.snapshot_id}: what is stored of it says that it was saved or deleted at {saved_us} us"
        )
    head, tail = value[:OFFSET_SAVED_US], value[OFFSET_CREATED_US:]
    return meta._replace(saved_us=saved_us), b"".join((head, _I64.pack(saved_us), tail))


def attributed(value: bytes, header: Header, attributes: str) -> bytes:
    """The same value with that column of attributes; the body is not touched."""
    names = write_names(header.meta._replace(attributes=attributes))
    flags = value[OFFSET_FLAGS] & ~FLAG_ATTRIBUTES | (FLAG_ATTRIBUTES if attributes else 0)
    begins = bytes([flags]) + (OFFSET_NAMES + len(names)).to_bytes(4, "big")
    fixed = value[:OFFSET_FLAGS] + begins + value[OFFSET_SAVED_US:OFFSET_NAMES]
    return b"".join((fixed, names, value[header.length :]))


def from_value(
    value: bytes, header: Header | None = None, dictionaries: Mapping[bytes, Dictionary] = NO_DICTIONARIES
) -> Record:
    """The record of `to_value`; `dictionaries`, by id, must have the one that the header names.

    Raises CorruptRecord; allocates no more than the raw length that is declared.
    """
    if header is None:
        header = read_header(value)
    body = value[header.length :]
    try:
        if header.body_codec != BODY_RAW:
            body = decompress(body, header.raw_length, _dictionary(header, dictionaries))
    except NotZstd as exc:
        raise CorruptRecord(f"snapshot {header.meta.snapshot_id}: {exc}") from exc
    return _record(header, body)


def from_values(
    values: Sequence[tuple[bytes, Header]], dictionaries: Mapping[bytes, Dictionary] = NO_DICTIONARIES
) -> list[Record | CorruptRecord]:
    """`from_value` of many, or the error of each that cannot be read; what shares a dictionary is read in one call."""
    bodies: dict[int, bytes] = {}
    for wanted in {header.dictionary_id for _, header in values if header.body_codec != BODY_RAW}:
        numbers = [
            number
            for number, (_, header) in enumerate(values)
            if header.dictionary_id == wanted and header.body_codec != BODY_RAW
        ]
        packed = [(value[header.length :], header.raw_length) for value, header in map(values.__getitem__, numbers)]
        if wanted is None or wanted in dictionaries:
            with suppress(NotZstd):  # then each is asked by itself, below
                found = decompress_many(packed, None if wanted is None else dictionaries[wanted])
                bodies.update(zip(numbers, found, strict=True))
    return [
        _record_or_error(value, header, bodies.get(number), dictionaries)
        for number, (value, header) in enumerate(values)
    ]


def _record_or_error(
    value: bytes, header: Header, body: bytes | None, dictionaries: Mapping[bytes, Dictionary]
) -> Record | CorruptRecord:
    try:
        return from_value(value, header, dictionaries) if body is None else _record(header, body)
    except CorruptRecord as exc:
        return exc


def _record(header: Header, body: bytes) -> Record:
    if len(body) != header.raw_length:
        raise CorruptRecord(f"snapshot {header.meta.snapshot_id}: {len(body)} bytes, not {header.raw_length}")
    if body_crc(body) != header.meta.body_crc:
        raise CorruptRecord(f"snapshot {header.meta.snapshot_id}: the body does not match its checksum")
    return _made(Record, (header.meta, header.encoding, body))


def _dictionary(header: Header, dictionaries: Mapping[bytes, Dictionary]) -> Dictionary | None:
    if header.dictionary_id is None:
        return None
    found = dictionaries.get(header.dictionary_id)
    if found is None:
        raise CorruptRecord(
            f"snapshot {header.meta.snapshot_id}: its dictionary {header.dictionary_id.hex()} is not known here"
        )
    return found


def read_meta(value: bytes) -> SnapshotMeta:
    """What the header tells; the body may be missing. Raises CorruptRecord."""
    return read_header(value).meta


def text_bytes(text: str) -> bytes:
    """UTF-8 that any str has, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


def _body(snapshot: SagaSnapshot) -> dict[str, Any]:
    return {
        "context": snapshot.context,
        "completed_steps": snapshot.completed_steps,
        "external_refs": snapshot.external_refs,
    }


def _check_shapes(snapshot: SagaSnapshot) -> None:
    context: Any = snapshot.context
    if type(context) is not dict:
        raise NotSerializable("context", f"must be a dict, not {type(context).__name__}")
    steps: Any = snapshot.completed_steps
    if type(steps) is not list:
        raise NotSerializable("completed_steps", f"must be a list, not {type(steps).__name__}")
    for index, step in enumerate(steps):
        if type(step) is not str:
            raise NotSerializable(f"completed_steps[{index}]", f"must be a str, not {type(step).__name__}")
    refs: Any = snapshot.external_refs
    if type(refs) is not dict:
        raise NotSerializable("external_refs", f"must be a dict, not {type(refs).__name__}")
    for key, ref in refs.items():
        if type(key) is not str or type(ref) is not str:
            path = f"external_refs.{key}" if type(key) is str and key.isidentifier() else f"external_refs[{key!r}]"
            raise NotSerializable(path, "keys and values must be str")


def read_header(value: bytes) -> Header:
    """All that is before the body, which may be missing. Raises CorruptRecord."""
    try:
        fields = _FIXED.unpack_from(value)
    except struct.error as exc:
        raise CorruptRecord(f"a stored value of {len(value)} bytes is shorter than its header") from exc
    version, codec, encoding, flags, length, saved_us, created_us, retention_us = fields[:8]
    step_index, raw_length, body_crc, dictionary_id, snapshot_id, saga_id = fields[8:]
    if version != VALUE_FORMAT:
        raise CorruptRecord(
            f"a stored value has format {version}, this version reads {VALUE_FORMAT}",
            hint="it was written by a newer sagaz-tiering, or by something else under the same key",
        )
    if (codec == BODY_ZSTD_DICTIONARY) != (dictionary_id != _NO_DICTIONARY) or codec not in _BODY_CODECS:
        raise CorruptRecord(f"a stored value is compressed in a way (codec {codec}) that this version cannot read")
    if flags & ~(FLAG_IN_PACK | FLAG_ATTRIBUTES) or encoding not in _ENCODINGS or raw_length > MAX_BODY_BYTES:
        raise CorruptRecord("a stored value's header is damaged")
    ends_us = created_us if retention_us == NO_EXPIRY_US else retention_us
    if not (MIN_US <= created_us < MAX_US and MIN_US <= saved_us < MAX_US and MIN_US <= ends_us < MAX_US):
        raise CorruptRecord("a stored value's times are damaged")
    if not OFFSET_NAMES < length <= len(value):
        raise CorruptRecord(f"a stored value of {len(value)} bytes is shorter than its header ({length})")
    names = read_names(value[OFFSET_NAMES:length], with_attributes=bool(flags & FLAG_ATTRIBUTES))
    saga_name, step_name, status, attributes = names
    until_us = None if retention_us == NO_EXPIRY_US else retention_us
    ids, times = (uuid_of(snapshot_id), uuid_of(saga_id)), (created_us, saved_us, until_us)
    meta = _made(SnapshotMeta, (*ids, saga_name, step_name, step_index, status, *times, body_crc, attributes))
    dictionary = dictionary_id if codec == BODY_ZSTD_DICTIONARY else None
    return _made(Header, (meta, _ENCODINGS[encoding], codec, dictionary, length, raw_length))
