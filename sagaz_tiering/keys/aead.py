"""AES-256-GCM, the only place that knows the library: a 12-byte nonce, the ciphertext, a 16-byte tag."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sagaz_tiering.errors import MissingDependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


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
