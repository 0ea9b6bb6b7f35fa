"""Writes the golden files of every version of the formats: `python tests/golden/make.py` (when a version is added).

Files that end in `.raw` hold uncompressed bytes, which encoding must reproduce exactly; compressed bytes may
differ between zstd releases, so `.bin`, `.pack` and `.zdict` files pin decoding only.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from golden import samples  # noqa: E402
from sagaz_tiering.codec.value import Record, encode, to_value  # noqa: E402
from sagaz_tiering.codec.zstd import Dictionary  # noqa: E402
from sagaz_tiering.dictionaries.training import train  # noqa: E402
from sagaz_tiering.keys.frame_key import FrameKey  # noqa: E402
from sagaz_tiering.packs.entries import BuiltFrame, SealedPack  # noqa: E402
from sagaz_tiering.packs.footer import footer_content  # noqa: E402
from sagaz_tiering.packs.format import PackWriter  # noqa: E402
from sagaz_tiering.packs.frame import build_frame, frame_content  # noqa: E402


def plain_records() -> list[Record]:
    """The records of the plain samples, newest first."""
    return [encode(snapshot, saved_us=samples.SAVED_US) for snapshot in reversed(samples.PLAIN)]


def record_with_attributes() -> Record:
    """The newest plain sample, found by some values."""
    return encode(samples.PLAIN[-1], saved_us=samples.SAVED_US, attributes=samples.ATTRIBUTES)


def typed_record() -> Record:
    """The record of the sample that holds every type."""
    return encode(samples.every_type(), saved_us=samples.SAVED_US)


def frame_key() -> FrameKey:
    """The key of the encrypted frame, with the same nonce each time."""
    return FrameKey(key_id=samples.KEY_ID.bytes, secret=bytes(range(32)), random_bytes=lambda count: b"\x5a" * count)


def encrypted_frame() -> BuiltFrame:
    """The plain samples, encrypted."""
    return build_frame([(record, samples.EXPIRES_US) for record in plain_records()], level=3, key=frame_key())


def dictionary() -> Dictionary:
    """The dictionary of the samples that use one: trained once, and kept."""
    path = HERE / "dictionary-v1.zdict"
    if path.exists():
        return Dictionary(path.read_bytes())
    bodies = [encode(samples.snapshot(number), saved_us=samples.SAVED_US).body for number in range(60)]
    data = train(bodies, size=1024)
    assert data is not None
    return Dictionary(data)


def frame_with_dictionary() -> BuiltFrame:
    """The plain samples, compressed with the dictionary."""
    return build_frame([(r, samples.EXPIRES_US) for r in plain_records()], level=3, dictionary=dictionary())


def pack_with_dictionary() -> SealedPack:
    """A pack of a frame with the dictionary and one without."""
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    writer.add(frame_with_dictionary())
    writer.add(build_frame([(typed_record(), None)], level=3))
    return writer.seal()


def pack() -> SealedPack:
    """A pack of two sagas; the one that expires carries its effective expiry."""
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    writer.add(build_frame([(record, samples.EXPIRES_US) for record in plain_records()], level=3))
    writer.add(build_frame([(typed_record(), None)], level=3))
    return writer.seal()


def records_with_attributes() -> list[Record]:
    """The plain records, each with attributes."""
    pairs = zip(plain_records(), reversed(samples.COLUMNS), strict=True)
    return [record._replace(meta=record.meta._replace(attributes=column)) for record, column in pairs]


def pack_with_attributes() -> SealedPack:
    """A pack of version 2: a frame with attributes, an encrypted one, and one that has none."""
    records, other = records_with_attributes(), typed_record()
    secret = [other._replace(meta=other.meta._replace(attributes="order_id=ORD-SECRET"))]
    third = encode(samples.snapshot(7, saga_id=samples.KEY_ID), saved_us=samples.SAVED_US)
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    writer.add(build_frame([(record, samples.EXPIRES_US) for record in records], level=3))
    writer.add(build_frame([(record, None) for record in secret], level=3, key=frame_key()))
    writer.add(build_frame([(third, None)], level=3))
    return writer.seal()


def deterministic() -> dict[str, bytes]:
    """Files whose bytes encoding must reproduce."""
    return {
        "value-v1-plain.raw": to_value(plain_records()[0], level=None),
        "value-v1-typed.raw": to_value(typed_record(), level=None),
        "value-v1-attributes.raw": to_value(record_with_attributes(), level=None),
        "frame-v1.raw": frame_content(plain_records()),
    }


def main() -> None:
    """Write every file that is not there yet; existing ones pin the past and are left alone."""
    sealed, second = pack(), pack_with_attributes()
    files = {
        **deterministic(),
        "value-v1-zstd.bin": to_value(plain_records()[0], level=3),
        "frame-v1-encrypted.bin": encrypted_frame().payload,
        "dictionary-v1.zdict": dictionary().data,
        "value-v1-dictionary.bin": to_value(plain_records()[0], level=3, dictionary=dictionary()),
        "frame-v1-dictionary.bin": frame_with_dictionary().payload,
        "pack-v1-dictionary.pack": pack_with_dictionary().data,
        "pack-v1.pack": sealed.data,
        "footer-v1.raw": footer_content(sealed.footer),
        "pack-v2.pack": second.data,
        "footer-v2.raw": footer_content(second.footer),
    }
    for name, data in files.items():
        if not (HERE / name).exists():
            (HERE / name).write_bytes(data)
            print(f"wrote {name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
