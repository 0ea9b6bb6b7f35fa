"""The checksum of bodies is CRC-32, whichever library computes it."""

from __future__ import annotations

import sys
import zlib
from importlib import reload

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_tiering.codec import header as checksum
from sagaz_tiering.codec.header import body_crc

LENGTHS = (0, 1, 5 * 1024, 5 * 1024 + 1, 10 * 1024, 10 * 1024 + 1, 64 * 1024, 64 * 1024 + 1, 200_000)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("library", ["fast", "standard"])
def test_checksum_is_crc_32_at_every_border_of_its_pieces(
    length: int, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes and views of any length have the CRC-32 that any other program computes, with isal and without."""
    if library == "fast":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    try:
        found = reload(checksum)
        body = bytes(at * 7 % 251 for at in range(length))
        assert found.body_crc(body) == found.body_crc(memoryview(body)) == zlib.crc32(body)
        assert (found.crc32 is zlib.crc32) == (library == "standard")
    finally:
        monkeypatch.undo()
        reload(checksum)


@given(st.binary(max_size=40_000))
def test_checksum_of_any_bytes_is_zlibs(body: bytes) -> None:
    """What is stored can be checked with nothing but zlib."""
    assert body_crc(body) == zlib.crc32(body)
