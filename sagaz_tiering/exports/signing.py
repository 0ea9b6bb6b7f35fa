"""The Ed25519 signature of a manifest: made with a private key, checked with a public one, both from PEM files.

Any tool can check it too: `openssl pkeyutl -verify -pubin -inkey PUBLIC.pem -rawin -in manifest.json -sigfile
manifest.sig`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagaz_tiering.drivers.files import refusing
from sagaz_tiering.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
_MAKE = "openssl genpkey -algorithm ed25519 -out KEY.pem; openssl pkey -in KEY.pem -pubout -out PUBLIC.pem"


class Signer:
    """Signs with a private key from a file. Blocking."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for what is no private Ed25519 key without a password, MissingDependencyError."""
        self._key: Ed25519PrivateKey = _loaded(path, "private")

    @property
    def public_key(self) -> str:
        """64 hex digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(data)


def public_key_in(path: Path) -> str:
    """The public key of a file, as 64 hex digits. Blocking. Raises ConfigError, MissingDependencyError."""
    key: Ed25519PublicKey = _loaded(path, "public")
    return key.public_bytes_raw().hex()


def is_signed_by(public_key: str, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that of `data` by this key (64 hex digits). Raises MissingDependencyError."""
    _check_installed()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _loaded(path: Path, half: str) -> Any:
    _check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    with refusing(f"{path} cannot be read", "give the path of a PEM file"):
        data, is_private = path.read_bytes(), half == "private"
    try:
        key = load_pem_private_key(data, password=None) if is_private else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # whose messages might show what is in the file
        key = None
    if not isinstance(key, Ed25519PrivateKey if half == "private" else Ed25519PublicKey):
        raise ConfigError(f"{path} is not a {half} Ed25519 key in PEM, without a password", hint=f"make one: {_MAKE}")
    return key


def _check_installed() -> None:
    from importlib.util import find_spec

    if find_spec("cryptography") is None:
        raise MissingDependencyError("sagaz-tiering[encryption]", "a signed export")
