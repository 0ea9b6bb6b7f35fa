"""Encrypted frames: nothing readable, nothing changeable, and version 1 opens for ever."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from golden import make, samples

from sagaz_tiering.codec.zstd import decompress
from sagaz_tiering.errors import CorruptPack, ErasedData, MissingDependencyError
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.packs.entries import SealedPack
from sagaz_tiering.packs.footer import footer_content
from sagaz_tiering.packs.format import PackWriter, parse_pack
from sagaz_tiering.packs.frame import build_frame, open_frame, packed_header, read_frame_header
from sagaz_tiering.packs.wire import digest

GOLDEN = Path(__file__).parent.parent / "golden"
KEY = FrameKey(key_id=b"k" * 16, secret=b"s" * 32)
RECORDS = make.plain_records()
PAIRS = [(record, samples.EXPIRES_US) for record in RECORDS]


def sealed(*, key: FrameKey | None = KEY) -> SealedPack:
    """A pack of an encrypted frame and a clear one, added with or without its key."""
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    writer.add(replace(build_frame(PAIRS, key=KEY), key=key))
    writer.add(build_frame([(make.typed_record(), None)]))
    return writer.seal()


def open_header(payload: bytes) -> bytes:
    """What follows the header."""
    return payload[read_frame_header(payload).length :]


def test_encrypted_frame_opens_with_its_key() -> None:
    """The same records come back; nothing of them is in the bytes, compressed or not."""
    frame = build_frame(PAIRS, key=KEY)
    assert open_frame(frame.payload, key=KEY) == RECORDS
    assert frame.entry.key_id == KEY.key_id
    assert read_frame_header(frame.payload).key_id == KEY.key_id
    assert b"payment" not in frame.payload
    clear = build_frame(PAIRS)
    assert clear.payload[24:40] not in frame.payload
    assert (clear.entry.key_id, clear.entry.raw_length) == (None, frame.entry.raw_length)


def test_every_frame_has_a_nonce_of_its_own() -> None:
    """The same records under the same key are never the same bytes."""
    nonces = {open_header(build_frame(PAIRS, key=KEY).payload)[:12] for _ in range(50)}
    assert len(nonces) == 50


def test_format_is_plain_aes_gcm() -> None:
    """Anybody can decrypt it with a library and the documented layout: nonce, ciphertext and tag; header as AAD."""
    payload = build_frame(PAIRS, key=KEY).payload
    header, stored = read_frame_header(payload), open_header(payload)
    assert header.length == 24 + 16
    aad = payload[:8] + bytes(16) + payload[24:40]
    compressed = AESGCM(KEY.secret).decrypt(stored[:12], stored[12:], aad)
    assert decompress(compressed, header.raw_length) == (GOLDEN / "frame-v1.raw").read_bytes()


@pytest.mark.parametrize(
    "key", [None, FrameKey(key_id=b"other-key-id-16!", secret=KEY.secret)], ids=["none", "another id"]
)
def test_frame_without_its_key_says_so(key: FrameKey | None) -> None:
    """It is no damage: the error names the key that is gone."""
    with pytest.raises(ErasedData, match=KEY.key_id.hex()):
        open_frame(build_frame(PAIRS, key=KEY).payload, key=key)


def test_wrong_secret_is_refused() -> None:
    """A key of the right id with another secret opens nothing."""
    wrong = FrameKey(key_id=KEY.key_id, secret=b"x" * 32)
    with pytest.raises(CorruptPack, match="does not decrypt"):
        open_frame(build_frame(PAIRS, key=KEY).payload, key=wrong)


def test_every_altered_byte_is_refused() -> None:
    """Header, key id, nonce, ciphertext and tag: one changed bit anywhere, with the checksum as it was."""
    payload = build_frame(PAIRS, key=KEY).payload
    for position in range(len(payload)):
        for bit in (1, 128):
            damaged = bytearray(payload)
            damaged[position] ^= bit
            with pytest.raises(CorruptPack):
                open_frame(bytes(damaged), key=KEY)


@pytest.mark.parametrize("region", ["nonce", "ciphertext", "tag"])
def test_altered_payload_with_a_fitting_checksum_is_refused(region: str) -> None:
    """Who can write to the bucket can make the checksum fit, but not the tag."""
    payload = build_frame(PAIRS, key=KEY).payload
    stored = bytearray(open_header(payload))
    stored[{"nonce": 0, "ciphertext": 20, "tag": -1}[region]] ^= 1
    header = read_frame_header(payload)
    forged = packed_header(header.raw_length, digest(bytes(stored)), key_id=header.key_id) + bytes(stored)
    with pytest.raises(CorruptPack, match="does not decrypt"):
        open_frame(forged, key=KEY)


@pytest.mark.parametrize("change", [{"raw_length": 77}, {"key_id": b"q" * 16}], ids=["raw length", "key id"])
def test_header_is_authenticated(change: Mapping[str, Any]) -> None:
    """Length and key id are part of what the tag covers, though they are not secret."""
    payload = build_frame(PAIRS, key=KEY).payload
    header = read_frame_header(payload)
    fields = {"raw_length": header.raw_length, "key_id": header.key_id, **change}
    raw_length = fields.pop("raw_length")
    forged = packed_header(raw_length, header.checksum, **fields) + open_header(payload)
    key = FrameKey(key_id=fields["key_id"], secret=KEY.secret)
    with pytest.raises(CorruptPack, match="does not decrypt"):
        open_frame(forged, key=key)


@pytest.mark.parametrize("length", [1, 12, 27])
def test_short_payload_is_refused(length: int) -> None:
    """Less than nonce and tag."""
    stored = b"x" * length
    with pytest.raises(CorruptPack, match="does not decrypt"):
        open_frame(packed_header(9, digest(stored), key_id=KEY.key_id) + stored, key=KEY)


def test_writer_reads_encrypted_frames_back() -> None:
    """A pack is parsed whole before it counts: a frame that does not decrypt is found before its upload."""
    assert parse_pack(sealed().data, keys={KEY.key_id: KEY}).frames[0].key_id == KEY.key_id
    good = build_frame(PAIRS, key=KEY)
    wrong = replace(good, key=FrameKey(key_id=KEY.key_id, secret=b"x" * 32))
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    writer.add(wrong)
    with pytest.raises(CorruptPack, match="does not decrypt"):
        writer.seal()


def test_pack_without_keys_is_checked_as_far_as_it_goes() -> None:
    """Footer and checksums need no key; a byte changed in an encrypted frame is found all the same."""
    pack = sealed(key=None)
    assert parse_pack(pack.data) == pack.footer
    damaged = bytearray(pack.data)
    damaged[pack.footer.frames[0].offset + 80] ^= 1
    with pytest.raises(CorruptPack, match="checksum"):
        parse_pack(bytes(damaged))


def test_footer_stays_readable_and_holds_no_context() -> None:
    """Ids, names, steps and times are in the clear in the footer, contexts are not in it."""
    content = footer_content(sealed().footer)
    assert KEY.key_id in content
    assert samples.PLAIN[0].saga_id.bytes in content
    assert b"ORD-1" not in content


def test_golden_encrypted_frame_opens() -> None:
    """An encrypted frame of version 1 is readable for ever."""
    assert open_frame((GOLDEN / "frame-v1-encrypted.bin").read_bytes(), key=make.frame_key()) == RECORDS
    again = make.encrypted_frame().payload
    assert open_header(again)[:12] == b"\x5a" * 12
    assert open_frame(again, key=make.frame_key()) == RECORDS


def test_key_never_shows() -> None:
    """Neither in the repr of a key nor of a frame that carries one."""
    key = FrameKey(key_id=b"k" * 16, secret=b"very secret, 32 bytes of it, yes")
    assert "very secret" not in repr(key) + repr(build_frame(PAIRS, key=key))


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `cryptography` an encrypted policy says what to install."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingDependencyError) as refused:
        build_frame(PAIRS, key=KEY)
    assert refused.value.package == "cryptography"
    assert build_frame(PAIRS).entry.key_id is None
