"""Attributes of snapshots in packs: format version 2, sealed where their frame is encrypted (guarantees G7, G12)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from golden import make, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packs import numbered, seal, some_pack

from sagaz_tiering.attributes import column, token
from sagaz_tiering.codec.value import Record, encode
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.packs.attributes import carrying, opened, parted, united
from sagaz_tiering.packs.entries import Footer, FrameEntry, SealedPack
from sagaz_tiering.packs.footer import footer_content, most_footer_bytes, open_footer_content, whole
from sagaz_tiering.packs.format import PackWriter, check_frame, locate_footer, parse_footer, parse_pack
from sagaz_tiering.packs.frame import build_frame, frame_digest, open_frame
from sagaz_tiering.packs.reader import footer_part, read_footer
from sagaz_tiering.packs.wire import digest

GOLDEN = Path(make.__file__).parent
KEYS = {make.frame_key().key_id: make.frame_key()}
TEXTS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=6)
COLUMNS = st.lists(st.builds(token, st.sampled_from(["order_id", "customer", "a"]), TEXTS), max_size=4).map(column)


def carried(footer: Footer) -> list[list[str]]:
    """The columns of the snapshots of each frame."""
    return [[snapshot.meta.attributes for snapshot in frame.snapshots] for frame in footer.frames]


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.uuids(), COLUMNS), min_size=1, max_size=6, unique_by=lambda pair: pair[0]))
def test_text_of_a_frame_tells_what_each_of_its_snapshots_carries(snapshots: list[tuple[UUID, str]]) -> None:
    """All of them, and any that are left of them."""
    ids, columns = [one for one, _ in snapshots], [text for _, text in snapshots]
    text = united(snapshots)
    assert parted(text, ids) == columns
    assert parted(text, ids[1:]) == columns[1:]
    assert (text == "") == (not any(columns))


def test_text_of_a_frame_tells_snapshots_apart_whose_ids_begin_alike() -> None:
    """Four digits are the shortest beginning, not the only one."""
    ids = [UUID("c0ffee00-0000-4000-8000-00000000000" + digit) for digit in "123"]
    text = united([(ids[0], "a=1\x1fb=2"), (ids[1], "b=2"), (ids[2], "b=2")])
    assert text == f"a=1\x1e{ids[0].hex}\x1fb=2"
    assert parted(text, ids) == ["a=1\x1fb=2", "b=2", "b=2"]
    apart = [UUID("abcd" + "0" * 28), UUID("abce" + "0" * 28)]
    assert united([(apart[0], "a=1"), (apart[1], "")]) == "a=1\x1eabcd"
    assert united([(apart[0], "a=1"), (apart[1], "a=1")]) == "a=1"


def test_golden_pack_of_version_2_is_still_read() -> None:
    """Who has the key reads all of it, who lacks it everything but what is sealed."""
    data = (GOLDEN / "pack-v2.pack").read_bytes()
    assert (data[7], data[-1]) == (2, 2)
    footer = parse_pack(data, keys=KEYS)
    first, second, third = carried(footer)
    assert first == samples.COLUMNS[::-1]
    assert second == ["order_id=ORD-SECRET"]
    assert third == [""]
    without = parse_pack(data)
    assert carried(without) == [first, [""], third]
    assert [opened(frame, KEYS.get(frame.key_id or b"")) for frame in without.frames] == list(footer.frames)
    assert read_footer(footer_part(data), len(data)) == without
    records = open_frame(data[8:][: footer.frames[0].length])
    assert records == make.plain_records()
    assert carrying(records, united([(r.meta.snapshot_id, r.meta.attributes) for r in make.records_with_attributes()]))
    assert b"ORD-SECRET" not in zstandard.decompress(footer_part(data)[:-28])


def test_golden_footer_content_of_version_2_is_still_written_and_read() -> None:
    """What is compressed into a footer is pinned byte by byte."""
    raw = (GOLDEN / "footer-v2.raw").read_bytes()
    footer = parse_pack((GOLDEN / "pack-v2.pack").read_bytes())
    assert footer_content(footer) == raw
    assert whole(open_footer_content(raw, version=2)) == footer


def test_pack_without_attributes_is_one_of_version_1() -> None:
    """Byte for byte, so that earlier code reads it."""
    sealed = some_pack()
    assert (sealed.data[7], sealed.data[-1]) == (1, 1)
    place = locate_footer(sealed.data[-28:], len(sealed.data))
    assert place.version == 1
    assert whole(open_footer_content(footer_content(sealed.footer))) == sealed.footer


@settings(max_examples=80, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.lists(COLUMNS, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=4))
def test_any_attributes_come_back_as_they_were_packed(frames: list[tuple[list[str], bool]]) -> None:
    """In frames with and without a key, from the whole pack and from the footer alone."""
    keys = {}
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    for number, (columns, is_encrypted) in enumerate(frames):
        key = FrameKey(key_id=bytes([number]) * 16, secret=bytes([number]) * 32)
        if is_encrypted:
            keys[key.key_id] = key
        writer.add(build_frame(pairs_of(columns, number), level=1, key=key if is_encrypted else None))
    sealed = writer.seal()
    packed = [columns[::-1] for columns, _ in frames]
    assert carried(sealed.footer) == packed
    assert parse_pack(sealed.data, keys=keys) == sealed.footer
    footer = read_footer(footer_part(sealed.data), len(sealed.data))
    assert carried(replace(footer, frames=tuple(opened(f, keys.get(f.key_id or b"")) for f in footer.frames))) == packed
    bare = [[""] * len(columns) if is_encrypted else columns[::-1] for columns, is_encrypted in frames]
    assert carried(footer) == carried(parse_pack(sealed.data)) == bare


def pairs_of(columns: list[str], number: int = 0) -> list[tuple[Record, int | None]]:
    """Records of saga `number` that carry these, oldest first."""
    found: list[tuple[Record, int | None]] = []
    for step, text in enumerate(columns):
        one = samples.snapshot(step, saga_id=numbered(number), snapshot_id=numbered(100 * (number + 1) + step))
        record = encode(one, saved_us=samples.SAVED_US)
        found.append((record._replace(meta=record.meta._replace(attributes=text)), None))
    return found


def two_encrypted() -> SealedPack:
    """Two sagas under one key, each with an attribute."""
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    for number in (1, 2):
        writer.add(build_frame(pairs_of([f"order_id={number}"], number), key=make.frame_key()))
    return writer.seal()


def test_sealed_attributes_are_plain_aes_gcm() -> None:
    """Anybody can open them with a library and the documented layout; the frame's digest is authenticated."""
    frame = two_encrypted().footer.frames[0]
    assert frame.sealed_attributes is not None
    bound = b"sagaz-tiering attributes 1" + frame_digest(frame)
    nonce, rest = frame.sealed_attributes[:12], frame.sealed_attributes[12:]
    assert AESGCM(make.frame_key().secret).decrypt(nonce, rest, bound) == b"order_id=1"


def test_sealed_attributes_of_another_frame_do_not_open() -> None:
    """Not even those of a frame under the same key, and none that was altered."""
    first, second = two_encrypted().footer.frames
    key = make.frame_key()
    assert opened(first, key) == first
    swapped = replace(first, sealed_attributes=second.sealed_attributes)
    altered = [replace(first, sealed_attributes=b"") for _ in range(1)]
    for at in range(len(first.sealed_attributes or b"")):
        data = bytearray(first.sealed_attributes or b"")
        data[at] ^= 1
        altered.append(replace(first, sealed_attributes=bytes(data)))
    for frame in (swapped, *altered):
        with pytest.raises(CorruptPack, match="does not decrypt"):
            opened(frame, key)


def test_frame_that_is_copied_without_its_key_takes_its_sealed_attributes_along() -> None:
    """As compaction copies it, into another pack."""
    sealed = two_encrypted()
    entry = parse_pack(sealed.data).frames[1]
    payload = bytes(sealed.data[entry.offset : entry.offset + entry.length])
    writer = PackWriter(numbered(7), samples.CATALOG_ID, samples.CREATED_US)
    copied = build_frame(pairs_of([""]))
    writer.add(copied)
    writer.add(replace(copied, payload=payload, entry=replace(entry, offset=0)))
    again = writer.seal()
    assert carried(parse_pack(again.data, keys=KEYS)) == [[""], ["order_id=2"]]


def test_frames_whose_attributes_differ_from_those_of_the_frame_are_the_same_frames() -> None:
    """A frame does not hold attributes: the footer alone tells them."""
    frame = build_frame(pairs_of(["a=1"]))
    check_frame(frame.entry, frame.payload, keys={})


def by_hand(frames: bytes, raw: bytes, *, begins: int = 2, ends: int = 2) -> bytes:
    """A pack whose checksums fit, whatever its footer says."""
    footer = zstandard.ZstdCompressor().compress(raw)
    tail = struct.pack(">I16s8s", len(footer), digest(footer), b"SGZPEND" + bytes([ends]))
    return b"SGZPACK" + bytes([begins]) + frames + footer + tail


def of_version_2() -> tuple[SealedPack, bytes, bytes]:
    """A pack, the bytes of its frames, and its footer before compression."""
    sealed = seal([pairs_of(["a=1\x1fb=2", "a=1"])])
    return (
        sealed,
        bytes(sealed.data[8 : locate_footer(sealed.data, len(sealed.data)).offset]),
        footer_content(sealed.footer),
    )


def section(kind: int, data: bytes) -> bytes:
    return struct.pack(">HI", kind, len(data)) + data


def test_section_of_a_later_version_is_skipped() -> None:
    """Before and after the one that is known, and where that is not there."""
    sealed, frames, raw = of_version_2()
    assert parse_pack(by_hand(frames, raw)) == sealed.footer
    assert parse_pack(by_hand(frames, raw + section(7, b"whatever"))) == sealed.footer
    plain = footer_content(Footer(**fields(sealed.footer, frames=tuple(map(bare, sealed.footer.frames)))))
    attributes = raw[len(plain) :]
    assert parse_pack(by_hand(frames, plain + section(9, b"") + attributes)) == sealed.footer
    assert carried(parse_pack(by_hand(frames, plain + section(9, b"x")))) == [["", ""]]


def fields(footer: Footer, **changes: object) -> dict[str, object]:
    return {name: getattr(footer, name) for name in Footer.__dataclass_fields__} | changes


def bare(frame: FrameEntry) -> FrameEntry:
    return replace(frame, snapshots=tuple(s._replace(meta=s.meta._replace(attributes="")) for s in frame.snapshots))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plain, text: plain, "truncated"),
        (lambda plain, text: plain + section(1, text) * 2, "two sections"),
        (lambda plain, text: plain + section(1, text)[:-1], "truncated"),
        (lambda plain, text: plain + section(1, text) + b"\0", "truncated"),
        (lambda plain, text: plain + section(1, text + b"\0"), "too many"),
        (lambda plain, text: plain + section(1, struct.pack(">I", 2**32 - 1) + text[4:]), "truncated"),
        (lambda plain, text: plain + struct.pack(">HI", 1, 2**32 - 1) + text, "truncated"),
        (lambda plain, text: plain + section(1, text[:3]), "truncated"),
        (lambda plain, text: plain + section(1, struct.pack(">I", 1) + b"\xff"), "UTF-8"),
        (lambda plain, text: plain + section(1, struct.pack(">I", 7) + b"b=2\x1fa=1"), "out of order"),
        (lambda plain, text: plain + section(1, struct.pack(">I", 8) + b"a=1\x1effff"), "not in their frame"),
    ],
)
def test_sections_that_break_the_rules_are_refused(change: Callable[[bytes, bytes], bytes], says: str) -> None:
    """Lengths are checked before anything is taken, and every byte is accounted for."""
    sealed, frames, raw = of_version_2()
    plain = footer_content(replace(sealed.footer, frames=tuple(map(bare, sealed.footer.frames))))
    text = raw[len(plain) + 6 :]
    with pytest.raises(CorruptPack, match=says):
        parse_pack(by_hand(frames, change(plain, text)))


def test_pack_that_begins_and_ends_as_another_version_is_refused() -> None:
    """Nor is a footer with sections one of version 1."""
    _, frames, raw = of_version_2()
    for begins, ends in ((1, 2), (2, 1)):
        with pytest.raises(CorruptPack, match="begins as one of version"):
            parse_pack(by_hand(frames, raw, begins=begins, ends=ends))
    with pytest.raises(CorruptPack, match="too many"):
        parse_pack(by_hand(frames, raw, begins=1, ends=1))


def test_no_damage_of_a_pack_of_version_2_goes_unnoticed() -> None:
    """Any byte changed, any prefix: CorruptPack, and nothing else."""
    data = make.pack_with_attributes().data
    for position in range(len(data)):
        for mask in (0x03, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= mask
            with pytest.raises(CorruptPack):
                parse_pack(bytes(damaged))
    for length in range(len(data)):
        with pytest.raises(CorruptPack):
            parse_pack(data[:length])


def test_damage_of_sections_under_fitting_checksums_gives_corrupt_pack_only() -> None:
    """Seeded damage of the raw footer, with and without the key at hand."""
    random = Random(20260303)
    sealed = make.pack_with_attributes()
    frames = bytes(sealed.data[8 : locate_footer(sealed.data, len(sealed.data)).offset])
    raw, refused = footer_content(sealed.footer), 0
    begins = len(footer_content(replace(sealed.footer, frames=tuple(map(unsealed, sealed.footer.frames)))))
    for _ in range(2_000):
        damaged = bytearray(raw)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(begins, len(damaged)) if random.random() < 0.8 else random.randrange(len(damaged))
            if random.random() < 0.2:
                del damaged[at : at + random.randint(1, 30)]
            else:
                damaged[at] = random.choice([0, 1, 0x1E, 0x1F, 0x7F, 0x80, 0xFF, random.randrange(256)])
            if begins >= len(damaged):
                break
        try:
            found = parse_pack(by_hand(frames, bytes(damaged)), keys=KEYS)
        except CorruptPack:
            refused += 1
        else:
            assert carried(found)  # another text of the same form: it is the digest that vouches for it
    assert refused > 1_500


def unsealed(frame: FrameEntry) -> FrameEntry:
    return replace(bare(frame), sealed_attributes=None)


@pytest.mark.guarantee("G6")
def test_footer_with_the_longest_attributes_is_within_what_its_snapshots_may_take() -> None:
    """A reader that knows how many there are does not refuse what a writer may write."""
    pairs = pairs_of(["\x1f".join(sorted(f"a={number:05x}{'x' * 200}" for number in range(300))), "a=1"])
    sealed = seal([pairs])
    assert read_footer(footer_part(sealed.data), len(sealed.data), most=2) == sealed.footer
    shortest = [f"a={chr(0x100 + number)}" for number in range(8_000)]
    columns = [column(shortest[start::2]) for start in (0, 1)]
    raw = footer_content(seal([pairs_of(columns)]).footer)
    assert len(raw) < most_footer_bytes(2)


def test_footer_is_parsed_by_the_version_that_its_tail_tells() -> None:
    """Three range reads find everything, as of version 1."""
    sealed, _, _ = of_version_2()
    place = locate_footer(sealed.data[-28:], len(sealed.data))
    compressed = bytes(sealed.data[place.offset : place.offset + place.length])
    assert place.version == 2
    assert parse_footer(compressed, place.checksum, version=2) == sealed.footer
