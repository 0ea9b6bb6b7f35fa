"""No damage of a pack goes unnoticed, and nothing but CorruptPack comes out of it (guarantee G1)."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import product
from random import Random
from typing import Any
from uuid import uuid4

import pytest
import zstandard
from golden import make, samples
from support.packs import some_pack

from sagaz_tiering.codec.header import body_crc
from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.packs import format as pack_format
from sagaz_tiering.packs import frame as pack_frame
from sagaz_tiering.packs.entries import Footer
from sagaz_tiering.packs.footer import footer_content, open_footer_content, whole
from sagaz_tiering.packs.format import END_MAGIC, MAGIC, TAIL_LENGTH, locate_footer, parse_footer, parse_pack
from sagaz_tiering.packs.frame import build_frame, frame_content, open_frame, read_frame_content
from sagaz_tiering.packs.reader import footer_part, read_footer
from sagaz_tiering.packs.wire import MIN_META_BYTES, digest


def renamed(record: Record, other: Record) -> Record:
    """`record` under the id of `other`."""
    return record._replace(meta=record.meta._replace(snapshot_id=other.meta.snapshot_id))


def test_every_flipped_byte_is_detected() -> None:
    """Any single byte of a pack, changed in any of three ways, makes parse_pack refuse it."""
    data = some_pack().data
    for position, mask in product(range(len(data)), (0x01, 0x80, 0xFF)):
        damaged = bytearray(data)
        damaged[position] ^= mask
        with pytest.raises(CorruptPack):
            parse_pack(bytes(damaged))


def test_every_truncation_is_detected() -> None:
    """No prefix and no suffix of a pack is a pack."""
    data = some_pack().data
    for length in range(len(data)):
        with pytest.raises(CorruptPack):
            parse_pack(data[:length])
        with pytest.raises(CorruptPack):
            parse_pack(data[len(data) - length :])


def test_every_truncated_or_flipped_frame_is_refused() -> None:
    """A frame read alone, by range, is checked alone."""
    frame = build_frame([(record, None) for record in make.plain_records()]).payload
    for length in range(len(frame)):
        with pytest.raises(CorruptPack):
            open_frame(frame[:length])
    with pytest.raises(CorruptPack):
        open_frame(frame + b"\0")
    for position in range(len(frame)):
        damaged = bytearray(frame)
        damaged[position] ^= 0x10
        with pytest.raises(CorruptPack):
            open_frame(bytes(damaged))


def test_random_damage_gives_corrupt_pack_and_nothing_else() -> None:
    """Seeded: bytes changed, removed, doubled or moved; the answer is always CorruptPack."""
    random = Random(20260301)
    data = some_pack().data
    for _ in range(3_000):
        damaged = bytearray(data)
        start, length = random.randrange(len(data)), random.randint(1, 40)
        piece = data[start : start + length]
        change = random.choice(["noise", "remove", "double", "zero"])
        if change == "noise":
            damaged[start : start + length] = random.randbytes(len(piece))
        elif change == "remove":
            del damaged[start : start + length]
        elif change == "double":
            damaged[start:start] = piece
        else:
            damaged[start : start + length] = bytes(len(piece))
        if damaged != data:
            with pytest.raises(CorruptPack):
                parse_pack(bytes(damaged))


def sealed_by_hand(frames: bytes, footer_raw: bytes) -> bytes:
    """A pack whose checksums fit, whatever is in it: what an attacker or a buggy writer could make."""
    footer = zstandard.ZstdCompressor().compress(footer_raw)
    return MAGIC + frames + footer + struct.pack(">I16s8s", len(footer), digest(footer), END_MAGIC)


def frame_by_hand(raw: bytes, *, flags: int = 0, codec_id: int = 1, extra: bytes = b"") -> bytes:
    payload = zstandard.ZstdCompressor().compress(raw)
    return struct.pack(">2sBBI16s", b"SF", codec_id, flags, len(raw), digest(payload)) + extra + payload


def test_damage_under_fitting_checksums_gives_corrupt_pack_only() -> None:
    """The parsers behind the checksums are bounds-checked themselves: seeded damage of raw footers and frames."""
    random = Random(20260302)
    sealed = some_pack()
    frames = sealed.data[len(MAGIC) : locate_footer(sealed.data, len(sealed.data)).offset]
    footer_raw = footer_content(sealed.footer)
    frame_raw = frame_content(make.plain_records())
    refused = 0
    for _ in range(4_000):
        footer, content = bytearray(footer_raw), bytearray(frame_raw)
        for target in (footer, content):
            for _ in range(random.randint(1, 3)):
                at = random.randrange(len(target))
                if random.random() < 0.2:
                    del target[at : at + random.randint(1, 30)]
                else:
                    target[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
        for parse, data in (
            (parse_pack, sealed_by_hand(frames, bytes(footer))),
            (open_frame, frame_by_hand(bytes(content))),
        ):
            try:
                parse(data)
            except CorruptPack:
                refused += 1
    assert refused > 6_000


def edited(change: Callable[[Footer], Footer]) -> bytes:
    """The sample pack with its footer changed and resealed."""
    sealed = some_pack()
    frames = sealed.data[len(MAGIC) : locate_footer(sealed.data, len(sealed.data)).offset]
    return sealed_by_hand(frames, footer_content(change(sealed.footer)))


def first_frame(**fields: Any) -> Callable[[Footer], Footer]:
    return lambda footer: replace(footer, frames=(replace(footer.frames[0], **fields), *footer.frames[1:]))


def first_meta(**fields: Any) -> Callable[[Footer], Footer]:
    def change(footer: Footer) -> Footer:
        frame = footer.frames[0]
        snapshot = frame.snapshots[0]._replace(meta=frame.snapshots[0].meta._replace(**fields))
        return first_frame(snapshots=(snapshot, *frame.snapshots[1:]))(footer)

    return change


def test_unchanged_footer_resealed_by_hand_is_accepted() -> None:
    """The tests below fail for the reason they name, not because of the way they reseal."""
    assert parse_pack(edited(lambda footer: footer)) == some_pack().footer


@pytest.mark.parametrize(
    "change",
    [
        first_frame(offset=9),
        first_frame(offset=2**64 - 1),
        first_frame(length=2**32 - 1),
        first_frame(length=3),
        first_frame(raw_length=2**32 - 1),
        first_frame(raw_length=0),
        first_frame(raw_length=1),
        first_frame(checksum=bytes(16)),
        first_frame(codec=2),
        first_frame(key_id=bytes(16)),
        first_frame(dictionary_id=b"unlisted"),
        first_frame(saga_id=uuid4()),
        first_frame(saga_name="other"),
        first_frame(snapshots=()),
        first_meta(snapshot_id=uuid4()),
        first_meta(snapshot_id=make.typed_record().meta.snapshot_id),
        first_meta(created_us=samples.SAVED_US + 1),
        first_meta(created_us=2**62),
        first_meta(saved_us=samples.SAVED_US + 1),
        first_meta(saved_us=2**62),
        first_meta(retention_us=None),
        first_meta(retention_us=2**62),
        first_meta(step_index=77),
        first_meta(step_name="other"),
        first_meta(status="other"),
        first_meta(body_crc=1),
        lambda footer: replace(footer, frames=()),
        lambda footer: replace(footer, frames=footer.frames[:-1]),
        lambda footer: replace(footer, frames=footer.frames[::-1]),
        lambda footer: replace(footer, frames=footer.frames + footer.frames[:1]),
        lambda footer: replace(footer, created_us=2**62),
    ],
)
def test_footer_that_lies_about_its_pack_is_refused(change: Callable[[Footer], Footer]) -> None:
    """Every fact of the footer that a frame knows too is compared; gaps and overlaps are found."""
    with pytest.raises(CorruptPack):
        parse_pack(edited(change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (first_frame(codec=2), "codec"),
        (first_frame(length=3), "length"),
        (first_frame(raw_length=0), "length"),
        (first_frame(raw_length=pack_frame.MAX_FRAME_RAW_BYTES + 1), "length"),
        (first_frame(dictionary_id=b"unlisted"), "dictionary"),
        (first_frame(snapshots=()), "no snapshots"),
        (first_meta(snapshot_id=make.typed_record().meta.snapshot_id), "twice"),
        (first_meta(created_us=2**62), "time"),
        (first_meta(saved_us=-(2**62)), "time"),
        (first_meta(retention_us=2**62), "time"),
    ],
)
def test_footer_alone_is_checked_too(change: Callable[[Footer], Footer], says: str) -> None:
    """A catalog is rebuilt from footers without reading frames, so they must make sense by themselves."""
    with pytest.raises(CorruptPack, match=says):
        whole(open_footer_content(footer_content(change(some_pack().footer))))


def test_snapshot_in_two_frames_is_refused() -> None:
    """A pack that holds a snapshot twice, with everything else in order, is not one of ours."""
    frame = build_frame([(record, None) for record in make.plain_records()])
    second = replace(frame.entry, offset=len(MAGIC) + len(frame.payload))
    footer = replace(some_pack().footer, frames=(replace(frame.entry, offset=len(MAGIC)), second))
    with pytest.raises(CorruptPack, match="twice"):
        parse_pack(sealed_by_hand(frame.payload * 2, footer_content(footer)))


def test_footer_keeps_dictionary_and_key_ids() -> None:
    """Version 1 carries them already, so that dictionaries and encryption need no new footer."""
    digests = (sha256(b"one").digest(), sha256(b"two").digest())
    sealed = some_pack()
    first, second, third = sealed.footer.frames
    frames = (
        replace(first, dictionary_id=digests[1][:8]),
        replace(second, key_id=bytes(range(16))),
        replace(third, dictionary_id=digests[0][:8], key_id=bytes(16)),
    )
    footer = replace(sealed.footer, dictionaries=digests, frames=frames)
    assert whole(open_footer_content(footer_content(footer))) == footer


@pytest.mark.parametrize(("flags", "extra", "need"), [(1, bytes(8), "dictionary"), (2, bytes(16), "key")])
def test_frame_that_needs_more_than_this_version_has_is_refused(flags: int, extra: bytes, need: str) -> None:
    """A frame with a dictionary or a key says what is missing, instead of giving garbage."""
    with pytest.raises(CorruptPack, match=need):
        open_frame(frame_by_hand(frame_content(make.plain_records()), flags=flags, extra=extra))


@pytest.mark.parametrize(("flags", "codec_id"), [(4, 1), (0x80, 1), (0, 0), (0, 2)])
def test_frame_of_an_unknown_codec_is_refused(flags: int, codec_id: int) -> None:
    """Unknown codecs and flags belong to a newer version."""
    with pytest.raises(CorruptPack, match="not known"):
        open_frame(frame_by_hand(frame_content(make.plain_records()), flags=flags, codec_id=codec_id))


def test_frame_that_is_not_zstd_is_refused() -> None:
    """A fitting checksum over something else is not enough."""
    payload = b"plain bytes that are no zstd frame"
    header = struct.pack(">2sBBI16s", b"SF", 1, 0, 100, digest(payload))
    with pytest.raises(CorruptPack, match="zstd"):
        open_frame(header + payload)


@pytest.mark.parametrize(
    "records",
    [
        make.plain_records()[::-1],
        [make.plain_records()[0]] * 2,
        [make.plain_records()[0], renamed(make.plain_records()[1], make.plain_records()[0])],
        [make.plain_records()[0]._replace(body=b"{}")],
    ],
    ids=["oldest first", "twice", "one id", "body"],
)
def test_frame_content_that_breaks_the_rules_is_refused(records: list[Record]) -> None:
    """Order, uniqueness and body checksums are part of the format."""
    with pytest.raises(CorruptPack):
        open_frame(frame_by_hand(frame_content(records)))


def test_trailing_bytes_inside_a_frame_or_footer_are_refused() -> None:
    """Everything is accounted for."""
    with pytest.raises(CorruptPack, match="too many"):
        read_frame_content(frame_content(make.plain_records()) + b"\0")
    with pytest.raises(CorruptPack, match="too many"):
        whole(open_footer_content(footer_content(some_pack().footer) + b"\0"))


def test_bytes_between_frames_and_footer_are_refused() -> None:
    """Nothing hides between the last frame and the footer."""
    sealed = some_pack()
    location = locate_footer(sealed.data, len(sealed.data))
    with pytest.raises(CorruptPack, match="between"):
        parse_pack(sealed.data[: location.offset] + b"hidden" + sealed.data[location.offset :])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an object of sagaz-tiering"),
        (b"PK\x03\x04" + bytes(100), "not an object of sagaz-tiering"),
        (bytes(10_000), "not an object of sagaz-tiering"),
        (MAGIC, "truncated"),
        (MAGIC + bytes(100), "not an object of sagaz-tiering, or a truncated one"),
        (b"SGZPACK\x03" + bytes(100), "version 3"),
    ],
)
def test_foreign_object_is_refused_by_name(data: bytes, says: str) -> None:
    """The message tells a foreign object, a truncated pack and a newer version apart."""
    with pytest.raises(CorruptPack) as caught:
        parse_pack(data)
    assert says in str(caught.value)


def test_newer_version_is_recognised_from_the_tail() -> None:
    """A reader that only fetched the tail learns that it is too old."""
    tail = struct.pack(">I16s8s", 100, bytes(16), b"SGZPEND\x03")
    with pytest.raises(CorruptPack, match="version 3") as caught:
        locate_footer(tail, 10_000)
    assert "newer" in caught.value.hint


@pytest.mark.parametrize(
    ("length", "object_size"), [(0, 1_000), (2**32 - 1, 1_000), (965, 1_000), (1, TAIL_LENGTH), (1, 10)]
)
def test_footer_that_cannot_be_in_its_object_is_refused(length: int, object_size: int) -> None:
    """Lengths are checked against the object before anything is fetched."""
    with pytest.raises(CorruptPack):
        locate_footer(struct.pack(">I16s8s", length, bytes(16), END_MAGIC), object_size)


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(size))


@pytest.mark.parametrize("declared", [1_000, 2**31])
def test_frame_bomb_allocates_no_more_than_declared(declared: int) -> None:
    """A payload that unpacks to 100 MiB under another declared size is refused unopened."""
    payload = bomb(100 * 1024 * 1024)
    header = struct.pack(">2sBBI16s", b"SF", 1, 0, declared, digest(payload))
    assert peak_of(lambda: open_frame(header + payload)) < 1024 * 1024


def test_frame_over_the_limit_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """An honest declaration of too much is refused as well."""
    monkeypatch.setattr(pack_frame, "MAX_FRAME_RAW_BYTES", 1024 * 1024)
    frame = frame_by_hand(bytes(100 * 1024 * 1024))
    assert peak_of(lambda: open_frame(frame)) < 1024 * 1024


LARGE = 64 * 1024 * 1024


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("most", [None, 1])
def test_large_frame_is_looked_into_before_memory_is_taken(most: int | None) -> None:
    """A header that says nothing but the truth about zeros, as anyone can make it: refused by its beginning."""
    frame = frame_by_hand(bytes(LARGE))
    assert peak_of(lambda: open_frame(frame, most=most)) < LARGE // 8


@pytest.mark.guarantee("G6")
def test_large_frame_of_more_snapshots_than_the_catalog_knows_is_refused_unopened() -> None:
    """However right it is otherwise."""
    frame = build_frame(large_pairs(3)).payload
    assert peak_of(lambda: open_frame(frame, most=2)) < LARGE // 8
    assert len(open_frame(frame, most=3)) == len(open_frame(frame)) == 3


def test_small_frame_of_more_snapshots_than_the_catalog_knows_is_refused() -> None:
    """As a large one, once it is open."""
    frame = build_frame([(record, None) for record in make.plain_records()]).payload
    count = len(make.plain_records())
    assert len(open_frame(frame, most=count)) == count
    with pytest.raises(CorruptPack, match=f"{count} snapshots, where the catalog knows of {count - 1}"):
        open_frame(frame, most=count - 1)


def large_pairs(count: int) -> list[tuple[Record, int | None]]:
    found = []
    for record in make.plain_records()[:count]:
        body = b'{"context":"' + b"x" * (LARGE // count) + b'"}'
        found.append((Record(record.meta._replace(body_crc=body_crc(body)), record.encoding, body), None))
    return found


@pytest.mark.guarantee("G6")
def test_footer_that_no_catalog_knows_lists_no_more_snapshots_than_its_pack_has_bytes() -> None:
    """800 KB were seven million snapshots, two gigabytes and more than a minute."""
    sealed = some_pack()
    stored = footer_part(sealed.data)
    assert read_footer(stored, len(sealed.data)) == sealed.footer
    many = 200_000
    ids = b"".join(i.to_bytes(16, "big") for i in range(many))
    frame = struct.pack(">I16sIQII16s2s", 1, bytes(16), 0, len(MAGIC), 100, 2**30, bytes(16), b"\1\0")
    head = bytes(32) + struct.pack(">qIII", 0, 1, 0, 0) + frame + struct.pack(">I", many)
    raw = head + ids + bytes(many * (MIN_META_BYTES - 16 + 8))
    data = zstandard.ZstdCompressor().compress(raw)
    forged = data + struct.pack(">I16s8s", len(data), digest(data), END_MAGIC)
    with pytest.raises(CorruptPack, match="200000 snapshots, where"):
        read_footer(forged, len(forged) + len(MAGIC) + 100)


def test_footer_of_more_snapshots_than_fit_into_its_frames_is_refused() -> None:
    """The footer's own lengths are held against each other before its rows are read."""
    footer = some_pack().footer
    first = footer.frames[0]
    short = replace(first, raw_length=len(first.snapshots) * MIN_META_BYTES - 1)
    with pytest.raises(CorruptPack, match="too short for its snapshots"):
        whole(open_footer_content(footer_content(replace(footer, frames=(short, *footer.frames[1:])))))


def test_footer_bomb_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer over its limit is not unpacked."""
    monkeypatch.setattr(pack_format, "MAX_FOOTER_RAW_BYTES", 1024 * 1024)
    data = bomb(100 * 1024 * 1024)
    assert peak_of(lambda: parse_footer(data, digest(data))) < 1024 * 1024


@pytest.mark.parametrize("claimed", [2_000, 200_000], ids=["unpacked", "not unpacked"])
def test_footer_that_claims_more_than_the_catalog_is_refused_before_it_is_read(claimed: int) -> None:
    """A few kilobytes may list hundreds of thousands of snapshots, of which each would be made."""
    frame = bytes(16) + struct.pack(">IQII", 0, len(MAGIC), 100, 100) + bytes(16) + b"\x01\x00"
    ids = b"".join(number.to_bytes(16, "big") for number in range(claimed))
    numbers = bytes(claimed * (MIN_META_BYTES - 16 + 8))
    head = bytes(32) + struct.pack(">qIIII", samples.CREATED_US, 1, 0, 0, 1)
    data = zstandard.compress(head + frame + struct.pack(">I", claimed) + ids + numbers)
    assert peak_of(lambda: parse_footer(data, digest(data), most=8)) < 1024 * 1024


def test_footer_is_read_with_the_count_that_the_catalog_has() -> None:
    """Neither its frames nor its bytes are more than so many snapshots need."""
    pack = some_pack()
    count = sum(len(frame.snapshots) for frame in pack.footer.frames)
    part = footer_part(pack.data)
    assert read_footer(part, len(pack.data), most=count) == pack.footer
    with pytest.raises(CorruptPack, match=f"where the catalog knows of {count - 1} snapshots"):
        read_footer(part, len(pack.data), most=count - 1)


@pytest.mark.parametrize("position", ["strings", "dictionaries", "frames", "snapshots"])
def test_absurd_counts_are_refused_before_allocation(position: str) -> None:
    """Four thousand million of anything in a few hundred bytes is refused at once."""
    huge = struct.pack(">I", 2**32 - 1)
    head = bytes(32) + struct.pack(">q", samples.CREATED_US)
    frame = bytes(16) + struct.pack(">IQII", 0, len(MAGIC), 100, 100) + bytes(16) + b"\x01\x00" + huge
    one_string = struct.pack(">II", 1, 0)
    raw = {
        "strings": head + huge,
        "dictionaries": head + one_string + huge,
        "frames": head + one_string + bytes(4) + huge,
        "snapshots": head + one_string + bytes(4) + struct.pack(">I", 1) + frame,
    }[position] + bytes(300)
    assert peak_of(lambda: whole(open_footer_content(raw))) < 1024 * 1024


def peak_of(parse: Callable[[], object]) -> int:
    """Peak of allocated bytes while `parse` refuses what it is given."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPack):
            parse()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
