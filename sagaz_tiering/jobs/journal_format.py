"""Objects of the bucket's journal: what is written, and what is believed of what is read. Pure.

    {"format": 2, "catalog_id": …, "entries": "[{"number", "at", "kind", "body"}, …]", "key": …, "hmac": …}

`entries` is JSON within JSON, so that exactly those bytes are signed: HMAC-SHA256 under `key`, a data key that the
master key wraps, both there only where the configuration names one. Format 1, of the code before, has entries with an
`id`, as they are, and no signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from sagaz_tiering.catalog.journal import JournalEntry
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.errors import CorruptData
from sagaz_tiering.keys.master import WrappedKey

PREFIX = "journal/"
MOST_BYTES = 16 * 2**20
"""Of one object; what is written stays far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalObject:
    """An object as it was read, nothing of it checked but its shape; `key` and `mac` are None where it is unsigned."""

    catalog_id: str
    entries: list[Any]
    key: WrappedKey | None
    mac: bytes | None
    signed: bytes

    def is_signed_with(self, secret: bytes) -> bool:
        """Whether the signature is of these entries and this key."""
        return self.mac is not None and hmac.compare_digest(_mac(self.catalog_id, self.signed, secret), self.mac)


def object_key(newest: int, name: UUID) -> str:
    """Under this key are entries up to number `newest`, so that a listing can begin behind a number."""
    return f"{PREFIX}{newest:020d}-{name}.json"


def build(catalog_id: UUID, entries: Sequence[JournalEntry], signing: tuple[WrappedKey, bytes] | None) -> bytes:
    """The object for these entries, signed where there is a key and its secret."""
    told = [{"number": e.number, "at": e.at, "kind": e.kind, "body": e.body} for e in entries]
    return _document(catalog_id, orjson.dumps(told), signing)


def sign_anew(found: JournalObject, signing: tuple[WrappedKey, bytes]) -> bytes:
    """The object with the same entries, to the byte, under another signature."""
    return _document(UUID(found.catalog_id), found.signed or orjson.dumps(found.entries), signing)


def _document(catalog_id: UUID, text: bytes, signing: tuple[WrappedKey, bytes] | None) -> bytes:
    document: dict[str, Any] = {"format": 2, "catalog_id": str(catalog_id), "entries": text.decode()}
    if signing is not None:
        key, secret = signing
        document["key"] = {
            "key_id": str(key.key_id),
            "wrapped": base64.b64encode(key.wrapped).decode(),
            "master_id": key.master_id,
        }
        document["hmac"] = _mac(str(catalog_id), text, secret).hex()
    return orjson.dumps(document)


def parse(data: bytes) -> JournalObject:
    """Raises CorruptData for what is no journal."""
    try:
        document = orjson.loads(data)
        kind = document["format"]
        if kind == 1:
            entries, text = document["entries"], b""
        elif kind == 2:
            text = document["entries"].encode()
            entries = orjson.loads(text)
        else:
            raise CorruptData(f"format {kind!r:.40} is not one that this version reads", hint="upgrade sagaz-tiering")
        if not isinstance(entries, list):
            raise TypeError("its entries are no list")
        owner, key = str(document["catalog_id"]), document.get("key")
        return JournalObject(
            catalog_id=owner,
            entries=entries,
            key=None if key is None else _key(key, UUID(owner)),
            mac=None if key is None else bytes.fromhex(document["hmac"]),
            signed=text,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as exc:
        raise CorruptData(f"it is not a journal: {type(exc).__name__}: {exc}"[:200]) from exc


def check_entry(told: Any, not_after: datetime) -> JournalEntry:
    """An entry whose fields are what its kind needs. Raises CorruptData. Unknown kinds pass as they are."""
    try:
        at, kind, body = datetime.fromisoformat(told["at"]), told["kind"], told["body"]
        number = told["number"] if "number" in told else told["id"]
        if at.tzinfo is None or at > not_after:
            raise ValueError(f"its time is {at}")
        if not (isinstance(kind, str) and isinstance(body, dict) and isinstance(number, int)):
            raise TypeError("number, kind or body")
        checked = _KINDS.get(kind, dict)(body)
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as exc:
        raise CorruptData(f"not an entry: {type(exc).__name__}: {exc}"[:200]) from exc
    return JournalEntry(number=number, at=at, kind=kind, body=checked)


def _key(told: Any, catalog_id: UUID) -> WrappedKey:
    return WrappedKey(
        key_id=UUID(told["key_id"]),
        saga_id=catalog_id,
        wrapped=base64.b64decode(told["wrapped"], validate=True),
        master_id=str(told["master_id"]),
    )


def _mac(catalog_id: str, text: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, b"sagaz-tiering journal 2\n" + catalog_id.encode() + b"\n" + text, hashlib.sha256).digest()


def _forgotten(body: dict[str, Any]) -> dict[str, Any]:
    counts = {name: int(body.get(name, 0)) for name in ("hot", "durable", "archived", "replays")}
    erasure, snapshots = body.get("erasure_id"), body.get("snapshots")
    names = {"who": str(body["who"]), "reason": str(body["reason"])}
    return {
        "saga_id": UUID(body["saga_id"]),
        "erasure_id": None if erasure is None else UUID(erasure),
        "snapshots": None if snapshots is None else int(snapshots),
        **names,
        **counts,
    }


def _held(body: dict[str, Any]) -> dict[str, Any]:
    placed = datetime.fromisoformat(body["placed_at"])
    if placed.tzinfo is None:
        raise ValueError("placed_at has no zone")
    on = UUID(body["saga_id"]) if body["saga_id"] else Match(**body["match"])
    return {
        "hold_id": UUID(body["hold_id"]),
        "on": on,
        "reason": str(body["reason"]),
        "placed_by": str(body["placed_by"]),
        "placed_at": placed,
    }


def _released(body: dict[str, Any]) -> dict[str, Any]:
    return {"hold_id": UUID(body["hold_id"]), "who": str(body.get("who", "")), "reason": str(body.get("reason", ""))}


def _ids(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What checks a body that is a list of ids."""

    def checked(body: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(body[name], list):
            raise TypeError("a list is needed")
        return {name: [UUID(each) for each in body[name]]}

    return checked


_KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "delete": _ids("snapshot_ids"),
    "forget": _forgotten,
    "hold": _held,
    "release": _released,
    "key_destroyed": _ids("key_ids"),
}
