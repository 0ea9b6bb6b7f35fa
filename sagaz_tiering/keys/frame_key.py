"""AES-256-GCM, in the only place that knows the library, and the encryption of one frame's payload with it.

The stored payload is the random 12-byte nonce, then the ciphertext of the compressed payload with its 16-byte tag; the
frame's header is authenticated with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sagaz_tiering.errors import CorruptPack, MissingDependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
ADDED_BYTES: Final = NONCE_BYTES + TAG_BYTES
"""So much longer is what is encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameKey:
    """A saga's data key: `key_id` is 16 bytes, in the clear in frames and footers; `secret` is 32 bytes.

    `random_bytes` makes the nonce of each frame. A nonce must never be used twice under one key: only tests, which
    need the same bytes each time, pass anything else.
    """

    key_id: bytes
    secret: bytes = field(repr=False)
    random_bytes: Callable[[int], bytes] = field(default=os.urandom, repr=False, compare=False)


def encrypt(key: FrameKey, header: bytes, data: bytes) -> bytes:
    """`data` encrypted so that it opens only under this header. Raises MissingDependencyError."""
    return seal(key.secret, data, header, nonce=key.random_bytes(NONCE_BYTES))


def decrypt(key: FrameKey, header: bytes, payload: bytes) -> bytes:
    """What `encrypt` was given. Raises CorruptPack where key, header or payload are not the same."""
    try:
        return unseal(key.secret, payload, header)
    except NotAuthentic as exc:
        raise CorruptPack(
            f"frame: does not decrypt under key {key.key_id.hex()}: its bytes were altered, or the key is another one"
        ) from exc


class NotAuthentic(Exception):
    """Altered, bound to something else, or sealed with another key; which of these cannot be told."""


def seal(key: bytes, data: bytes, bound_to: bytes, *, nonce: bytes | None = None) -> bytes:
    """`data` so that it opens only with `key` and `bound_to` (which is authenticated, not stored).

    A nonce must never be used twice with one key: leave it out, and it is random. Raises MissingDependencyError.
    """
    nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
    return nonce + _cipher(key).encrypt(nonce, data, bound_to)


def unseal(key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    """What `seal` was given. Raises NotAuthentic, MissingDependencyError."""
    cipher = _cipher(key)
    from cryptography.exceptions import InvalidTag

    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise NotAuthentic(f"{len(sealed)} bytes are too few")
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
    except InvalidTag as exc:
        raise NotAuthentic("the tag does not match") from exc


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as exc:
        raise MissingDependencyError("cryptography", "`encryption: per-saga`") from exc
    return AESGCM(key)
