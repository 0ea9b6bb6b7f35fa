"""Packs come back as they were built, and no damage goes unnoticed (guarantees G1, G4, G7)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest
from golden import make, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packs import numbered, seal, some_pack

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec import value as codec
from sagaz_tiering.codec.value import Record, decode, encode
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.packs import frame as pack_frame
from sagaz_tiering.packs.footer import footer_content, open_footer_content, whole
from sagaz_tiering.packs.format import MAGIC, TAIL_LENGTH, PackWriter, locate_footer, parse_footer, parse_pack
from sagaz_tiering.packs.frame import build_frame, frame_content, open_frame, read_frame_content
from sagaz_tiering.snapshot import MAX_STEP_INDEX

GOLDEN = Path(make.__file__).parent
NAMES = st.text(st.characters(exclude_categories=()), max_size=8)
MICROS = st.integers(codec.MIN_US, codec.MAX_US - 1)
EXPIRIES = st.none() | st.integers(-(2**62) + 1, 2**62 - 1)


@st.composite
def sagas(draw: st.DrawFn) -> list[tuple[Record, int | None]]:
    """One saga's records with their expiries, in any order."""
    saga = {"saga_id": draw(st.uuids()), "saga_name": draw(NAMES)}
    count = draw(st.integers(1, 5))
    rows = []
    for number in range(count):
        until = draw(st.none() | MICROS)
        snapshot = samples.snapshot(
            number,
            **saga,
            snapshot_id=draw(st.uuids()),
            step_name=draw(NAMES),
            status=draw(NAMES),
            step_index=draw(st.integers(-MAX_STEP_INDEX - 1, MAX_STEP_INDEX)),
            created_at=from_micros(draw(MICROS)),
            retention_until=None if until is None else from_micros(until),
            context={"v": draw(st.one_of(NAMES, st.binary(max_size=50), st.integers()))},
        )
        rows.append((encode(snapshot, saved_us=draw(MICROS)), draw(EXPIRIES)))
    return rows


@settings(max_examples=120, deadline=None, database=None, derandomize=True)
@given(st.lists(sagas(), min_size=1, max_size=4), st.sampled_from([1, 3, 9]))
def test_any_pack_comes_back_as_it_was_built(groups: list[list[tuple[Record, int | None]]], level: int) -> None:
    """Bodies, metadata, expiries and order, from single frames and from the footer alone."""
    sealed = seal(groups, level)
    assert parse_pack(sealed.data) == sealed.footer
    for group, entry in zip(groups, sealed.footer.frames, strict=True):
        newest_first = sorted(group, key=lambda pair: pair[0].meta.order_key, reverse=True)
        assert open_frame(sealed.data[entry.offset : entry.offset + entry.length]) == [r for r, _ in newest_first]
        listed = [(s.meta, s.encoding, s.expires_us) for s in entry.snapshots]
        assert listed == [(r.meta, r.encoding, expires) for r, expires in newest_first]


def test_golden_pack_is_still_read() -> None:
    """Packs of version 1 are readable for ever, down to every value of every snapshot."""
    data = (GOLDEN / "pack-v1.pack").read_bytes()
    footer = parse_pack(data)
    assert (footer.pack_id, footer.catalog_id) == (samples.PACK_ID, samples.CATALOG_ID)
    assert (footer.created_us, footer.dictionaries) == (samples.CREATED_US, ())
    first, second = footer.frames
    assert open_frame(data[first.offset : first.offset + first.length]) == make.plain_records()
    assert [decode(r) for r in open_frame(data[first.offset :][: first.length])] == samples.PLAIN[::-1]
    assert open_frame(data[second.offset : second.offset + second.length]) == [make.typed_record()]
    assert [s.expires_us for s in first.snapshots] == [samples.EXPIRES_US] * 3
    assert [s.expires_us for s in second.snapshots] == [None]
    assert first.saga_name == "payment-überweisung"
    assert second.saga_name == "odd \ud800 name"


def test_golden_frame_content_is_still_written_and_read() -> None:
    """What is compressed into a frame is pinned byte by byte."""
    raw = (GOLDEN / "frame-v1.raw").read_bytes()
    assert frame_content(make.plain_records()) == raw
    assert read_frame_content(raw) == make.plain_records()


def test_golden_footer_content_is_still_written_and_read() -> None:
    """What is compressed into a footer is pinned byte by byte."""
    raw = (GOLDEN / "footer-v1.raw").read_bytes()
    footer = parse_pack((GOLDEN / "pack-v1.pack").read_bytes())
    assert footer_content(footer) == raw
    assert whole(open_footer_content(raw)) == footer


def test_reader_needs_only_tail_footer_and_ranges() -> None:
    """Three range reads find any snapshot; nothing else of the object is needed."""
    sealed = some_pack()
    tail = sealed.data[-TAIL_LENGTH:]
    location = locate_footer(tail, len(sealed.data))
    compressed = sealed.data[location.offset : location.offset + location.length]
    assert parse_footer(compressed, location.checksum) == sealed.footer
    longer = locate_footer(sealed.data[-200:], len(sealed.data))
    assert longer == location


def test_sealed_pack_says_what_it_holds() -> None:
    """Size and counts while writing; sha256 and offsets when sealed."""
    writer = PackWriter(uuid4(), uuid4(), samples.CREATED_US)
    assert (writer.size, writer.frame_count, writer.snapshot_count) == (len(MAGIC), 0, 0)
    frame = build_frame([(record, None) for record in make.plain_records()])
    assert frame.entry.offset == 0
    assert frame.entry.length == len(frame.payload)
    writer.add(frame)
    assert (writer.size, writer.frame_count, writer.snapshot_count) == (len(MAGIC) + len(frame.payload), 1, 3)
    sealed = writer.seal()
    assert sealed.sha256 == sha256(sealed.data).digest()
    assert sealed.footer.frames[0].offset == len(MAGIC)
    assert sealed.data[len(MAGIC) :].startswith(frame.payload)


def test_two_frames_of_one_saga_are_fine() -> None:
    """Sagas too large for one frame span several."""
    records = make.plain_records()
    footer = seal([[(records[0], None)], [(r, None) for r in records[1:]]]).footer
    assert [frame.saga_id for frame in footer.frames] == [records[0].meta.saga_id] * 2


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ([], "one saga"),
        ([make.plain_records()[0], make.typed_record()], "one saga"),
        ([make.plain_records()[0]] * 2, "once"),
    ],
)
def test_build_frame_refuses_what_is_no_frame(group: list[Record], says: str) -> None:
    """Mistakes of a caller show before anything is written."""
    with pytest.raises(ValueError, match=says):
        build_frame([(record, None) for record in group])


def test_build_frame_refuses_an_expiry_out_of_range() -> None:
    """The format's word for never is not a time."""
    with pytest.raises(ValueError, match="expires_us"):
        build_frame([(make.typed_record(), codec.NO_EXPIRY_US)])


def test_build_frame_refuses_too_much_for_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame is bounded, so that a reader's memory is."""
    monkeypatch.setattr(pack_frame, "MAX_FRAME_RAW_BYTES", 1_000)
    with pytest.raises(ValueError, match="too many for one frame"):
        build_frame([(make.typed_record(), None)])


def test_writer_refuses_a_snapshot_twice_and_stays_as_it_was() -> None:
    """A pack holds a snapshot once, in whichever frame."""
    writer = PackWriter(uuid4(), uuid4(), samples.CREATED_US)
    records = make.plain_records()
    writer.add(build_frame([(r, None) for r in records]))
    before = (writer.size, writer.frame_count, writer.snapshot_count)
    with pytest.raises(ValueError, match="already"):
        writer.add(build_frame([(records[1], None)]))
    assert (writer.size, writer.frame_count, writer.snapshot_count) == before
    assert len(writer.seal().footer.frames) == 1


def test_writer_refuses_an_empty_pack() -> None:
    """A pack of nothing would be an object for nothing."""
    with pytest.raises(ValueError, match="at least one"):
        PackWriter(uuid4(), uuid4(), samples.CREATED_US).seal()


def test_seal_refuses_a_frame_that_does_not_read_back() -> None:
    """A frame damaged in memory, or an entry that lies, never leaves the writer as a pack."""
    frame = build_frame([(record, None) for record in make.plain_records()])
    damaged = bytearray(frame.payload)
    damaged[-3] ^= 1
    lies = [
        replace(frame, payload=bytes(damaged)),
        replace(frame, entry=replace(frame.entry, saga_name="other")),
        replace(frame, entry=replace(frame.entry, snapshots=frame.entry.snapshots[:-1])),
        replace(frame, entry=replace(frame.entry, length=frame.entry.length - 1)),
    ]
    for lie in lies:
        writer = PackWriter(uuid4(), uuid4(), samples.CREATED_US)
        writer.add(lie)
        with pytest.raises(CorruptPack):
            writer.seal()


def test_threads_build_the_same_frames() -> None:
    """Frames are built on many threads at once."""
    groups = [
        [
            (encode(samples.snapshot(i, snapshot_id=numbered(n * 10 + i)), saved_us=samples.SAVED_US + n), None)
            for i in range(3)
        ]
        for n in range(100)
    ]
    alone = [build_frame(group) for group in groups]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(build_frame, groups * 3))
    assert together == alone * 3
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(open_frame, [frame.payload for frame in together]))
    assert opened == [[record for record, _ in reversed(group)] for group in groups * 3]
