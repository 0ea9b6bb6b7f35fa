"""Snapshots survive the way to stored bytes and back; damaged bytes are recognised (guarantees G1, G4)."""

from __future__ import annotations

import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
import zstandard
from golden import make, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exact import exactly

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec import header as header_of
from sagaz_tiering.codec import value as codec
from sagaz_tiering.codec.header import is_in_pack
from sagaz_tiering.codec.typed_json import Encoding
from sagaz_tiering.codec.value import Record, decode, encode, from_value, read_meta, to_value
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot, NotSerializable, SnapshotTooLarge
from sagaz_tiering.snapshot import MAX_STEP_INDEX, SagaSnapshot

GOLDEN = Path(make.__file__).parent
SAVED_US = samples.SAVED_US
NAMES = st.text(st.characters(exclude_categories=()), max_size=20)
TIMES = st.integers(codec.MIN_US, codec.MAX_US - 1).map(from_micros)
SNAPSHOTS = st.builds(
    SagaSnapshot,
    snapshot_id=st.uuids(),
    saga_id=st.uuids(),
    saga_name=NAMES,
    step_name=NAMES,
    step_index=st.integers(-MAX_STEP_INDEX - 1, MAX_STEP_INDEX),
    status=NAMES,
    context=st.dictionaries(NAMES, st.one_of(st.integers(), NAMES, st.datetimes(), st.binary()), max_size=5),
    completed_steps=st.lists(NAMES, max_size=4),
    created_at=TIMES,
    retention_until=st.none() | TIMES,
    external_refs=st.dictionaries(NAMES, NAMES, max_size=3),
)


def fields(snapshot: SagaSnapshot) -> Any:
    return exactly({name: getattr(snapshot, name) for name in SagaSnapshot.__dataclass_fields__})


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(SNAPSHOTS, st.integers(codec.MIN_US, codec.MAX_US - 1), st.sampled_from([None, 1, 3, 19]), NAMES)
def test_snapshot_comes_back_equal_from_its_value(
    snapshot: SagaSnapshot, saved: int, level: int | None, attributes: str
) -> None:
    """Every field, whatever the compression; the header alone gives the metadata, attributes with it."""
    record = encode(snapshot, saved_us=saved, attributes=attributes)
    assert record.meta.attributes == attributes
    value = to_value(record, level=level)
    assert from_value(value) == record
    assert fields(decode(from_value(value))) == fields(snapshot)
    header = value[: struct.unpack_from(">I", value, header_of.OFFSET_HEADER_LENGTH)[0]]
    assert read_meta(header) == record.meta
    assert record.meta.version == (saved, crc32(record.body))


def test_every_type_survives_in_a_context() -> None:
    """The sample of all promised types, through compressed and uncompressed values."""
    snapshot = samples.every_type()
    record = encode(snapshot, saved_us=SAVED_US)
    assert record.encoding is Encoding.TYPED
    for level in (None, 3):
        assert fields(decode(from_value(to_value(record, level=level)))) == fields(snapshot)


@pytest.mark.parametrize("name", ["value-v1-plain.raw", "value-v1-zstd.bin"])
def test_golden_plain_value_is_still_read(name: str) -> None:
    """Values of format 1 are readable for ever."""
    record = from_value((GOLDEN / name).read_bytes())
    assert record == make.plain_records()[0]
    assert decode(record) == samples.PLAIN[-1]


def test_golden_typed_value_is_still_read() -> None:
    """Every tag of the typed encoding is readable for ever."""
    record = from_value((GOLDEN / "value-v1-typed.raw").read_bytes())
    assert fields(decode(record)) == fields(samples.every_type())


def test_golden_value_with_attributes_is_still_read() -> None:
    """They stand behind the names, and the rest is as without them."""
    value = (GOLDEN / "value-v1-attributes.raw").read_bytes()
    record = from_value(value)
    assert record == make.record_with_attributes()
    assert record.meta.attributes == samples.ATTRIBUTES
    assert decode(record) == samples.PLAIN[-1]
    without = to_value(record._replace(meta=record.meta._replace(attributes="")), level=None)
    assert without == (GOLDEN / "value-v1-plain.raw").read_bytes()
    ending = samples.ATTRIBUTES.encode("utf-8", "surrogatepass") + len(samples.ATTRIBUTES.encode()).to_bytes(2, "big")
    assert len(value) == len(without) + len(ending)
    assert value.endswith(ending + record.body)
    assert value[header_of.OFFSET_FLAGS] == header_of.FLAG_ATTRIBUTES


@pytest.mark.parametrize("in_pack", [False, True])
def test_flags_are_told_apart(in_pack: bool) -> None:
    """Whether a pack holds a value is known with and without attributes."""
    for record in (make.record_with_attributes(), make.plain_records()[0]):
        value = to_value(record, level=None, in_pack=in_pack)
        assert is_in_pack(value) is in_pack
        assert read_meta(value) == record.meta


@pytest.mark.parametrize("name", ["value-v1-plain.raw", "value-v1-typed.raw", "value-v1-attributes.raw"])
def test_golden_value_is_still_written(name: str) -> None:
    """The same snapshot gives the same bytes: checksums are versions, across releases too."""
    assert make.deterministic()[name] == (GOLDEN / name).read_bytes()


def test_header_fields_are_where_scripts_look_for_them() -> None:
    """Redis scripts read fixed offsets; each constant names the field that is there."""
    snapshot = samples.snapshot(2, step_index=-7)
    record = encode(snapshot, saved_us=SAVED_US)
    value = to_value(record, level=None)

    def at(offset: int, code: str) -> Any:
        return struct.unpack_from(f">{code}", value, offset)[0]

    assert at(header_of.OFFSET_FORMAT, "B") == 1
    assert at(header_of.OFFSET_BODY_CODEC, "B") == header_of.BODY_RAW
    assert at(header_of.OFFSET_ENCODING, "B") == record.encoding
    assert value[at(header_of.OFFSET_HEADER_LENGTH, "I") :] == record.body
    assert at(header_of.OFFSET_SAVED_US, "q") == SAVED_US
    assert at(header_of.OFFSET_CREATED_US, "q") == record.meta.created_us
    assert at(header_of.OFFSET_RETENTION_US, "q") == record.meta.retention_us
    assert at(header_of.OFFSET_STEP_INDEX, "i") == -7
    assert at(header_of.OFFSET_RAW_LENGTH, "I") == len(record.body)
    assert at(header_of.OFFSET_BODY_CRC, "I") == record.meta.body_crc
    assert at(header_of.OFFSET_DICTIONARY_ID, "8s") == bytes(8)
    assert UUID(bytes=at(header_of.OFFSET_SNAPSHOT_ID, "16s")) == snapshot.snapshot_id
    assert UUID(bytes=at(header_of.OFFSET_SAGA_ID, "16s")) == snapshot.saga_id
    assert at(header_of.OFFSET_NAMES, "I") == len(snapshot.saga_name.encode())
    forever = to_value(encode(replace(snapshot, retention_until=None), saved_us=SAVED_US), level=None)
    assert struct.unpack_from(">q", forever, header_of.OFFSET_RETENTION_US)[0] == codec.NO_EXPIRY_US == 2**63 - 1


def test_body_is_the_documented_json() -> None:
    """Context, steps and references, in this order."""
    record = encode(samples.snapshot(0, context={"a": 1}, external_refs={"x": "y"}), saved_us=SAVED_US)
    assert record.body == b'{"context":{"a":1},"completed_steps":[],"external_refs":{"x":"y"}}'


def test_value_keeps_the_smaller_form() -> None:
    """Compression that would grow a small body is not used."""
    small = encode(samples.snapshot(0, context={}), saved_us=SAVED_US)
    large = encode(samples.snapshot(0, context={"a": "x" * 5_000}), saved_us=SAVED_US)
    assert to_value(small, level=3) == to_value(small, level=None)
    assert len(to_value(large, level=3)) < 500


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"context": []}, "context"),
        ({"context": {"a": {"b": 1j}}}, "context.a.b"),
        ({"context": {"we ird": object()}}, 'context["we ird"]'),
        ({"completed_steps": ("a",)}, "completed_steps"),
        ({"completed_steps": ["a", "b", 3]}, "completed_steps[2]"),
        ({"external_refs": []}, "external_refs"),
        ({"external_refs": {"x": 1}}, "external_refs.x"),
        ({"external_refs": {"a b": None}}, "external_refs['a b']"),
        ({"external_refs": {1: "x"}}, "external_refs[1]"),
    ],
)
def test_encode_refuses_with_the_path(changed: dict[str, Any], path: str) -> None:
    """Whatever would not come back equal is named, in all three parts of the body."""
    with pytest.raises(NotSerializable) as caught:
        encode(samples.snapshot(0, **changed), saved_us=SAVED_US)
    assert caught.value.path == path


def test_encode_refuses_a_large_snapshot_with_size_and_limit() -> None:
    """The message says how large it is and how large it may be; the default limit is 32 MiB."""
    snapshot = samples.snapshot(0, context={"blob": "x" * 1_000})
    size = len(encode(snapshot, saved_us=SAVED_US).body)
    assert encode(snapshot, saved_us=SAVED_US, max_bytes=size)
    with pytest.raises(SnapshotTooLarge, match=rf"is {size} bytes, the limit is {size - 1}"):
        encode(snapshot, saved_us=SAVED_US, max_bytes=size - 1)
    with pytest.raises(SnapshotTooLarge, match=f"limit of {32 * 1024 * 1024}"):
        encode(samples.snapshot(0, context={"blob": "x" * 32 * 1024 * 1024}), saved_us=SAVED_US)


def test_encode_refuses_a_name_without_end() -> None:
    """Names are indexed by every tier, so they are bounded."""
    with pytest.raises(SnapshotTooLarge, match="saga_name"):
        encode(samples.snapshot(0, saga_name="x" * 70_000), saved_us=SAVED_US)


def test_encode_refuses_an_impossible_save_time() -> None:
    """A time in seconds or nanoseconds instead of microseconds would never sort right."""
    with pytest.raises(InvalidSnapshot, match="saved_us"):
        encode(samples.snapshot(0), saved_us=SAVED_US * 1_000)


def test_decode_refuses_a_body_that_is_not_its_own() -> None:
    """A body under another record's metadata is damage."""
    first, second, _ = make.plain_records()
    with pytest.raises(CorruptRecord, match="checksum"):
        decode(first._replace(body=second.body))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"context":{},"completed_steps":[]}',
        b'{"context":[],"completed_steps":[],"external_refs":{}}',
        b'{"context":{},"completed_steps":[1],"external_refs":{}}',
        b'{"context":{},"completed_steps":[],"external_refs":{"a":1}}',
        b'{"context":{},"completed_steps":[],"external_refs":{},"more":1}',
        b"nonsense",
    ],
)
def test_decode_refuses_a_body_of_another_shape(body: bytes) -> None:
    """A checksum that fits does not make a snapshot."""
    record = make.plain_records()[0]
    with pytest.raises(CorruptRecord):
        decode(record._replace(body=body, meta=record.meta._replace(body_crc=crc32(body))))


def patched(value: bytes, offset: int, code: str, field: Any) -> bytes:
    data = bytearray(value)
    struct.pack_into(f">{code}", data, offset, field)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "code", "field", "says"),
    [
        (header_of.OFFSET_FORMAT, "B", 2, "newer"),
        (header_of.OFFSET_FORMAT, "B", ord("{"), "format 123"),
        (header_of.OFFSET_BODY_CODEC, "B", header_of.BODY_ZSTD_DICTIONARY, "codec 2"),
        (header_of.OFFSET_BODY_CODEC, "B", header_of.BODY_ZSTD, "zstd"),
        (header_of.OFFSET_BODY_CODEC, "B", 9, "codec 9"),
        (header_of.OFFSET_ENCODING, "B", 2, "header"),
        (header_of.OFFSET_FLAGS, "B", 2, "attributes"),
        (header_of.OFFSET_FLAGS, "B", 4, "header"),
        (header_of.OFFSET_HEADER_LENGTH, "I", 10, "header"),
        (header_of.OFFSET_HEADER_LENGTH, "I", 2**32 - 1, "header"),
        (header_of.OFFSET_SAVED_US, "q", 2**62, "times"),
        (header_of.OFFSET_CREATED_US, "q", -(2**63), "times"),
        (header_of.OFFSET_RETENTION_US, "q", 2**63 - 2, "times"),
        (header_of.OFFSET_RAW_LENGTH, "I", 2**32 - 1, "header"),
        (header_of.OFFSET_RAW_LENGTH, "I", 5, "bytes, not 5"),
        (header_of.OFFSET_BODY_CRC, "I", 1, "checksum"),
        (header_of.OFFSET_DICTIONARY_ID, "8s", b"someid!!", "cannot read"),
        (header_of.OFFSET_NAMES, "I", 2**32 - 1, "names"),
        (header_of.OFFSET_NAMES, "I", 0, "names"),
        (header_of.OFFSET_NAMES + 4, "B", 0xFF, "names"),
    ],
)
def test_damaged_header_is_refused(offset: int, code: str, field: Any, says: str) -> None:
    """Each field that can be wrong is checked before it is used."""
    value = to_value(make.plain_records()[0], level=None)
    with pytest.raises(CorruptRecord) as caught:
        from_value(patched(value, offset, code, field))
    assert says in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("longer", [-1, 1])
def test_names_must_end_where_the_header_ends(longer: int) -> None:
    """A header length that is off by one is not taken for the start of the body."""
    value = to_value(make.plain_records()[0], level=None)
    length = struct.unpack_from(">I", value, header_of.OFFSET_HEADER_LENGTH)[0]
    with pytest.raises(CorruptRecord, match="names do not end"):
        read_meta(patched(value, header_of.OFFSET_HEADER_LENGTH, "I", length + longer))


@pytest.mark.parametrize("raw_length", [9_000, codec.MAX_BODY_BYTES + 1])
def test_decompression_bomb_allocates_no_more_than_declared(raw_length: int) -> None:
    """A body that unpacks to 100 MiB under a small (or absurd) declared length is refused before it is unpacked."""
    record = make.plain_records()[0]
    header = to_value(record, level=None)[: -len(record.body)]
    bomb = zstandard.ZstdCompressor().compress(bytes(100 * 1024 * 1024))
    value = patched(header + bomb, header_of.OFFSET_BODY_CODEC, "B", header_of.BODY_ZSTD)
    value = patched(value, header_of.OFFSET_RAW_LENGTH, "I", raw_length)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRecord):
            from_value(value)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_zstd_without_a_declared_size_is_refused() -> None:
    """A stream whose size is unknown cannot be bounded."""
    record = make.plain_records()[0]
    header = to_value(record, level=None)[: -len(record.body)]
    body = zstandard.ZstdCompressor(write_content_size=False).compress(record.body)
    with pytest.raises(CorruptRecord, match="declare"):
        from_value(patched(header + body, header_of.OFFSET_BODY_CODEC, "B", header_of.BODY_ZSTD))


@pytest.mark.parametrize("length", [0, 1, 36, 200, 65_535])
def test_damaged_length_of_attributes_is_refused(length: int) -> None:
    """One that says none, that cuts into the names, or that is longer than there is."""
    value = to_value(make.record_with_attributes(), level=None)
    end = struct.unpack_from(">I", value, header_of.OFFSET_HEADER_LENGTH)[0]
    with pytest.raises(CorruptRecord, match=r"attributes|names"):
        read_meta(patched(value, end - 2, "H", length))


def test_truncated_value_is_refused_at_every_length() -> None:
    """No prefix of a value is a value; a prefix with the header still gives the metadata."""
    for record, level in ((make.typed_record(), None), (make.typed_record(), 3), (make.record_with_attributes(), 3)):
        value = to_value(record, level=level)
        header_length = struct.unpack_from(">I", value, header_of.OFFSET_HEADER_LENGTH)[0]
        for length in range(len(value)):
            with pytest.raises(CorruptRecord):
                from_value(value[:length])
            if length >= header_length:
                assert read_meta(value[:length]) == record.meta
            else:
                with pytest.raises(CorruptRecord):
                    read_meta(value[:length])


def test_trailing_bytes_are_refused() -> None:
    """A value is exactly as long as it says."""
    for level in (None, 3):
        with pytest.raises(CorruptRecord):
            from_value(to_value(make.typed_record(), level=level) + b"\0")


def test_damaged_value_never_gives_another_body() -> None:
    """Seeded random damage: CorruptRecord, or the body is untouched; nothing else ever comes out."""
    random = Random(20260301)
    refused = 0
    for record in (make.plain_records()[0], make.typed_record()):
        for level in (None, 3):
            value = to_value(record, level=level)
            for _ in range(3_000):
                data = bytearray(value)
                for _ in range(random.randint(1, 4)):
                    data[random.randrange(len(data))] ^= random.randint(1, 255)
                try:
                    back = from_value(bytes(data))
                    assert back.body == record.body
                    decode(back)
                except CorruptRecord:
                    refused += 1
    assert refused > 9_000


def test_threads_do_not_disturb_each_other() -> None:
    """Compressors are per thread: many threads give the bytes that one gives."""
    records: list[Record] = [
        encode(samples.snapshot(1, context={"blob": [f"{i}-{k}" for k in range(2_000)]}), saved_us=SAVED_US + i)
        for i in range(40)
    ]

    def there_and_back(record: Record) -> tuple[bytes, Record]:
        value = to_value(record, level=3)
        return value, from_value(value)

    alone = [there_and_back(record) for record in records]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(there_and_back, records * 5))
    assert together == alone * 5
    assert [record for _, record in alone] == records


def test_retention_and_creation_keep_their_microseconds() -> None:
    """Times are exact at both ends of the allowed range."""
    last = datetime(2255, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)
    snapshot = samples.snapshot(0, created_at=datetime(1700, 1, 1, tzinfo=UTC), retention_until=last)
    assert decode(from_value(to_value(encode(snapshot, saved_us=SAVED_US), level=3))) == snapshot
