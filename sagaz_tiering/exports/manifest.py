"""What an export says of itself: `manifest.json`, the sums of all its files, and what is wrong with its numbers.

The manifest has the SHA-256 of every part. `SHA256SUMS` has that of every file, in the form that `sha256sum --check`
reads; `manifest.sig`, if the export is signed, is the Ed25519 signature of the bytes of the manifest: made with a
private key, checked with a public one, both from PEM files. Any tool can check it too: `openssl pkeyutl -verify -pubin
-inkey PUBLIC.pem -rawin -in manifest.json -sigfile manifest.sig`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from sagaz_tiering.drivers.files import refusing
from sagaz_tiering.errors import ConfigError, CorruptData, MissingDependencyError
from sagaz_tiering.terminal import document

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
SUMS: Final = "SHA256SUMS"
MAX_NAMED: Final = 1_000
"""Snapshots left out that a manifest names; all of them are in the timeline."""
MAX_MANIFEST: Final = 32 * 1024 * 1024
"""Bytes; of MAX_PARTS parts."""
MAX_PARTS: Final = 50_000
"""A terabyte of JSON and more."""
_NAME: Final = re.compile(r"(snapshots|timeline|replays|holds)-[0-9]{5,9}\.(jsonl|parquet)")


class AlteredExport(CorruptData):
    """An export is not as it was made, or not one of ours; `part` is the file of it (`*`: the whole)."""

    def __init__(self, message: str, *, hint: str = "", part: str = "*") -> None:
        super().__init__(message, hint=hint)
        self.part = part


class RowKind(StrEnum):
    """What the rows of a part are."""

    SNAPSHOTS = "snapshots"
    TIMELINE = "timeline"
    REPLAYS = "replays"
    HOLDS = "holds"


class LeftOut(StrEnum):
    """Why a snapshot of the timeline is not in the export."""

    ARCHIVED = "archived"
    DAMAGED = "damaged"
    LOST = "lost"
    ERASED = "erased"
    EXPIRED = "expired"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPart:
    """One file. Its rows are of whole sagas, from `first_saga` to `last_saga`; those of later parts are behind them.

    The holds log is by time, and names no sagas here.
    """

    name: str
    kind: RowKind
    rows: int
    bytes: int
    sha256: str
    first_saga: UUID | None
    last_saga: UUID | None


@dataclass(slots=True, kw_only=True)
class ExportCounts:
    """What is in it. `selected == sagas + sagas_without`, `found == exported + all that was left out`.

    `sagas_without`: selected, and no snapshot was left when it came to them. `bytes`: of the snapshots' JSON.
    """

    selected: int = 0
    sagas: int = 0
    sagas_without: int = 0
    found: int = 0
    exported: int = 0
    left_out: dict[LeftOut, int] = field(default_factory=dict)
    replays: int = 0
    replays_damaged: int = 0
    holds: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutSnapshot:
    """One that is in the timeline only, and what to do about it."""

    snapshot_id: UUID
    saga_id: UUID
    reason: LeftOut
    why: str


@dataclass(slots=True, kw_only=True)
class Manifest:
    """What was exported, from where, when and by which rules.

    `who` ordered it, `made_by` is the program. `asked_for`: the filters. `source`: the addresses of the tiers, without
    secrets. `runs`: more than 1 where it was interrupted and went on. `left_out` names the first MAX_NAMED.
    `public_key`: 64 hex digits, where it is signed.
    """

    format: int = FORMAT
    export_id: UUID
    form: str
    made_by: str
    who: str
    source: dict[str, str]
    asked_for: dict[str, Any]
    policy_revisions: list[str]
    began_at: datetime
    finished_at: datetime
    runs: int
    counts: ExportCounts
    left_out: list[LeftOutSnapshot]
    parts: list[ExportPart]
    public_key: str | None = None


_MANIFEST: Final = TypeAdapter(Manifest)


def manifest_bytes(manifest: Manifest) -> bytes:
    """The file: JSON in ASCII, and its own digest as the last key, which tells of a slip of a disk or an editor."""
    text = json.dumps({**document(manifest), "checksum": f"sha256:{_NO_DIGEST}"}, indent=1) + "\n"
    return _sealed(text[: -len(_END)].encode("ascii"))


def read_manifest(data: bytes) -> Manifest:
    """The manifest in these bytes, which must have the digest that they end with. Raises AlteredExport."""
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(f"it has format {fields['format']}, this version reads {FORMAT}")
        manifest = _MANIFEST.validate_python({name: fields[name] for name in fields if name != "checksum"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        reason = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else exc
        raise AlteredExport(f"it cannot be read: {reason}", part=MANIFEST) from exc
    if _sealed(data[: -len(_END)]) != data:
        raise AlteredExport("it does not have the digest that it ends with", part=MANIFEST)
    return manifest


def is_name_of_part(name: str) -> bool:
    """Whether a part may have this name: one in the folder of the export itself."""
    return _NAME.fullmatch(name) is not None


def sums_bytes(digests: Mapping[str, str]) -> bytes:
    """The file of all sums, by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def problems_of(manifest: Manifest) -> list[str]:
    """What does not add up in a manifest; [] if all does."""
    counts, rows, found = manifest.counts, dict.fromkeys(RowKind, 0), list[str]()
    for part in manifest.parts:
        rows[part.kind] += part.rows
        ending = ".parquet" if manifest.form == "parquet" else ".jsonl"
        if not is_name_of_part(part.name) or not part.name.startswith(part.kind) or not part.name.endswith(ending):
            found.append(f"{part.name!r:.80} is no name of a part of it")
        if part.bytes < 0 or part.rows < 0:
            found.append(f"{part.name!r:.80} is said to have less than nothing in it")
    if len(manifest.parts) > MAX_PARTS:
        found.append(f"it has {len(manifest.parts):,} parts, more than any that is written")
    names = [part.name for part in manifest.parts]
    if len(set(names)) < len(names):
        found.append("a part is named twice")
    left_out = sum(counts.left_out.values())
    for what, told, counted in (
        ("sagas", counts.selected, counts.sagas + counts.sagas_without),
        ("snapshots", counts.found, counts.exported + left_out),
        ("rows of snapshots", counts.exported, rows[RowKind.SNAPSHOTS]),
        ("rows of the timeline", counts.found, rows[RowKind.TIMELINE]),
        ("rows of replays", counts.replays, rows[RowKind.REPLAYS]),
        ("rows of the holds log", counts.holds, rows[RowKind.HOLDS]),
        ("snapshots left out that are named", min(left_out, MAX_NAMED), len(manifest.left_out)),
    ):
        if told != counted:
            found.append(f"the counts do not add up: {told:,} {what}, but {counted:,} are counted")
    return found


_NO_DIGEST: Final = "0" * 64
_END: Final = f'{_NO_DIGEST}"\n}}\n'


def _sealed(text: bytes) -> bytes:
    """The text of a manifest up to its digest, and the digest of just that."""
    return text + _END.replace(_NO_DIGEST, sha256(text).hexdigest()).encode()


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
