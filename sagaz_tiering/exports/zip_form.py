"""The one form that a ZIP file of an export has, to the byte. Pure: bytes in, values out.

    header, deflated bytes    of each member, from the first byte on and without gaps, in the order of their names
    directory                 an entry of each, in the same order, and the end records
    comment                   of a fixed length: the seal, which is the SHA-256 of all bytes before its digits, and
                              the Ed25519 signature of the seal (zeros where the export is not signed)

Headers and directory follow from name, sizes, CRC-32 and place of the members alone, so that whoever has these can
compare every byte. Only how the bytes of a member are deflated is free (such a stream has bits that mean nothing),
which is what the seal is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from sagaz_tiering.exports.manifest import MANIFEST, MAX_PARTS, SIGNATURE, SUMS, AlteredExport, is_name_of_part

SEAL: Final = b"sha256:"
COMMENT: Final = len(SEAL) + 64 + len(b" ed25519:") + 128
_UNSIGNED: Final = bytes(64)
_WIDE: Final = 0xF000_0000
"""From this size on both sizes of a member are 64 bits: what is deflated may come out a little larger."""
_MAX_32, _MAX_16, _MAX_PLACE = 0xFFFF_FFFF, 0xFFFF, 2**63 - 1
_DEFLATED, _MIDNIGHT, _FIRST_DAY, _UNIX, _OWNER_ONLY = 8, 0, 33, 3 << 8, 0o600 << 16
_HEADER: Final = Struct("<4s5H3I2H")
_ENTRY: Final = Struct("<4s6H3I5H2I")
_END: Final = Struct("<4s4H2IH")
_END_64: Final = Struct("<4sQ2H2I4Q")
_END_64_AT: Final = Struct("<4sIQI")
TAIL: Final = _END_64.size + _END_64_AT.size + _END.size + COMMENT
"""Bytes at the end that say where the directory is."""
MAX_DIRECTORY: Final = MAX_PARTS * 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in it: `size` bytes with this CRC-32, `packed` bytes when deflated, its header at byte `offset`."""

    name: str
    crc: int
    size: int
    packed: int
    offset: int

    @property
    def at(self) -> int:
        """Where its deflated bytes begin."""
        return self.offset + len(header(self))

    @property
    def end(self) -> int:
        """The byte behind them."""
        return self.at + self.packed


def header(member: Member) -> bytes:
    """What stands before its bytes."""
    name, is_wide = member.name.encode(), member.size >= _WIDE
    more = _wide(member.size, member.packed) if is_wide else b""
    sizes = (_MAX_32, _MAX_32) if is_wide else (member.packed, member.size)
    fixed = (45 if is_wide else 20, 0, _DEFLATED, _MIDNIGHT, _FIRST_DAY, member.crc, *sizes)
    return _HEADER.pack(b"PK\3\4", *fixed, len(name), len(more)) + name + more


def directory(members: Sequence[Member]) -> bytes:
    """What stands behind the last member, up to the comment."""
    entries = b"".join(map(_entry, members))
    at, count = members[-1].end if members else 0, len(members)
    records = b""
    if count >= _MAX_16 or at >= _MAX_32 or len(entries) >= _MAX_32:
        records = _END_64.pack(
            b"PK\6\6", _END_64.size - 12, _UNIX | 45, 45, 0, 0, count, count, len(entries), at
        ) + _END_64_AT.pack(b"PK\6\7", 0, at + len(entries), 1)
    short = min(count, _MAX_16)
    end = _END.pack(b"PK\5\6", 0, 0, short, short, min(len(entries), _MAX_32), min(at, _MAX_32), COMMENT)
    return entries + records + end


def comment(seal: str, signature: bytes | None) -> bytes:
    """The last bytes: 64 hex digits, and the signature of `sealed(seal)`."""
    return sealed(seal) + b" ed25519:" + (signature or _UNSIGNED).hex().encode()


def sealed(seal: str) -> bytes:
    """The seal, as it is signed."""
    return SEAL + seal.encode()


def signature_in(found: bytes) -> bytes:
    """The signature in a comment, which may be anything."""
    try:
        return bytes.fromhex(found[-128:].decode())
    except ValueError:
        return b""


def directory_place(tail: bytes) -> tuple[int, int]:
    """Where the directory is and how many entries it has, by the last TAIL bytes of a file. Raises AlteredExport."""
    tail = tail[-TAIL:]
    end = tail[-COMMENT - _END.size : -COMMENT]
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        raise AlteredExport("it is not a whole ZIP file of an export: its end is not that of one")
    _, _, _, _, count, _, at, _ = _END.unpack(end)
    if count == _MAX_16 or at == _MAX_32:
        if len(tail) < TAIL:
            raise AlteredExport("it is not a whole ZIP file of an export: it is too short")
        *_, count, _, at = _END_64.unpack(tail[: _END_64.size])
    return at, count


def read_directory(data: bytes, count: int) -> list[Member]:
    """The members of a directory (the bytes from `directory_place` up to the comment). Raises AlteredExport.

    The directory of what it gives is exactly `data`, each member begins where the one before it ends, and no name is
    twice.
    """
    found, place, offset = list[Member](), 0, 0
    for _ in range(count):
        member, place = _read_entry(data, place)
        if member.offset != offset:
            raise AlteredExport("it does not begin in the ZIP file where what is before it ends", part=member.name)
        if found and _order(member.name) <= _order(found[-1].name):
            raise AlteredExport("it is in the ZIP file twice, or not in its order", part=member.name)
        found.append(member)
        offset = member.end
    if directory(found) != data:
        raise AlteredExport("the directory of the ZIP file is not as it was written")
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """The order of the members."""
    return sorted(names, key=_order)


def _order(name: str) -> tuple[bool, str]:
    return name == SUMS, name


def _read_entry(data: bytes, place: int) -> tuple[Member, int]:
    if len(data) < place + _ENTRY.size:
        raise AlteredExport("the directory of the ZIP file ends too early")
    *_, crc, packed, size, name_length, more_length, _, _, _, _, offset = _ENTRY.unpack_from(data, place)
    place += _ENTRY.size
    name = data[place : place + name_length].decode("ascii", "replace")
    if not is_name_of_part(name) and name not in (MANIFEST, SIGNATURE, SUMS):
        raise AlteredExport(f"the ZIP file has {name!r:.80}, which is no part of an export")
    place += name_length
    more = data[place : place + more_length]
    wide = [int.from_bytes(more[at : at + 8], "little") for at in range(4, len(more), 8)]
    is_wide = packed == size == _MAX_32 and len(wide) >= 2
    if is_wide:
        size, packed, *wide = wide
    if offset == _MAX_32 and wide:
        [offset, *_] = wide
    if is_wide != (size >= _WIDE) or offset + packed > _MAX_PLACE:
        raise AlteredExport("its sizes in the ZIP file are not written as an export has them", part=name)
    return Member(name=name, crc=crc, size=size, packed=packed, offset=offset), place + more_length


def _entry(member: Member) -> bytes:
    name, is_wide, is_far = member.name.encode(), member.size >= _WIDE, member.offset >= _MAX_32
    more = _wide(*((member.size, member.packed) if is_wide else ()), *((member.offset,) if is_far else ()))
    sizes = (_MAX_32, _MAX_32) if is_wide else (member.packed, member.size)
    version = 45 if is_wide or is_far else 20
    fixed = (_UNIX | version, version, 0, _DEFLATED, _MIDNIGHT, _FIRST_DAY, member.crc, *sizes)
    rest = (len(name), len(more), 0, 0, 0, _OWNER_ONLY, min(member.offset, _MAX_32))
    return _ENTRY.pack(b"PK\1\2", *fixed, *rest) + name + more


def _wide(*numbers: int) -> bytes:
    """The field of numbers that need 64 bits."""
    if not numbers:
        return b""
    return Struct(f"<2H{len(numbers)}Q").pack(1, 8 * len(numbers), *numbers)
