"""Writes the golden files of format version 1: `python tests/golden/make.py` (only when a version is added).

Files that end in `.raw` hold uncompressed bytes, which encoding must reproduce exactly; compressed bytes may
differ between zstd releases, so `value-v1-zstd.bin`, `frame-v1-encrypted.bin` and `pack-v1.pack` pin decoding only.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from golden import samples  # noqa: E402
from sagaz_tiering.codec import Record, encode, to_value  # noqa: E402
from sagaz_tiering.pack.encryption import FrameKey  # noqa: E402
from sagaz_tiering.pack.entries import BuiltFrame  # noqa: E402
from sagaz_tiering.pack.footer import footer_content  # noqa: E402
from sagaz_tiering.pack.format import PackWriter, SealedPack, build_frame  # noqa: E402
from sagaz_tiering.pack.frame import frame_content  # noqa: E402


def plain_records() -> list[Record]:
    """The records of the plain samples, newest first."""
    return [encode(snapshot, saved_us=samples.SAVED_US) for snapshot in reversed(samples.PLAIN)]


def typed_record() -> Record:
    """The record of the sample that holds every type."""
    return encode(samples.every_type(), saved_us=samples.SAVED_US)


def frame_key() -> FrameKey:
    """The key of the encrypted frame, with the same nonce each time."""
    return FrameKey(key_id=samples.KEY_ID.bytes, secret=bytes(range(32)), random_bytes=lambda count: b"\x5a" * count)


def encrypted_frame() -> BuiltFrame:
    """The plain samples, encrypted."""
    return build_frame([(record, samples.EXPIRES_US) for record in plain_records()], level=3, key=frame_key())


def pack() -> SealedPack:
    """A pack of two sagas; the one that expires carries its effective expiry."""
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    writer.add(build_frame([(record, samples.EXPIRES_US) for record in plain_records()], level=3))
    writer.add(build_frame([(typed_record(), None)], level=3))
    return writer.seal()


def deterministic() -> dict[str, bytes]:
    """Files whose bytes encoding must reproduce."""
    return {
        "value-v1-plain.raw": to_value(plain_records()[0], level=None),
        "value-v1-typed.raw": to_value(typed_record(), level=None),
        "frame-v1.raw": frame_content(plain_records()),
    }


def main() -> None:
    """Write every file that is not there yet; existing ones pin the past and are left alone."""
    sealed = pack()
    files = {
        **deterministic(),
        "value-v1-zstd.bin": to_value(plain_records()[0], level=3),
        "frame-v1-encrypted.bin": encrypted_frame().payload,
        "pack-v1.pack": sealed.data,
        "footer-v1.raw": footer_content(sealed.footer),
    }
    for name, data in files.items():
        if not (HERE / name).exists():
            (HERE / name).write_bytes(data)
            print(f"wrote {name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
