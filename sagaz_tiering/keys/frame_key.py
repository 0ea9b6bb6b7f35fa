"""Encryption of one frame's payload: AES-256-GCM with a random nonce, the frame's header authenticated with it.

The stored payload is the 12-byte nonce, then the ciphertext of the compressed payload with its 16-byte tag.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.keys.aead import NONCE_BYTES, TAG_BYTES, NotAuthentic, seal, unseal

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
