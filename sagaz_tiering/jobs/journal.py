"""The catalog's journal in the bucket: what its objects are, how they are published, what is believed of those read.

    {"format": 2, "catalog_id": …, "entries": "[{"number", "at", "kind", "body"}, …]", "key": …, "hmac": …}

`entries` is JSON within JSON, so that exactly those bytes are signed: HMAC-SHA256 under `key`, a data key that the
master key wraps, both there only where the configuration names one. Format 1, of the code before, has entries with an
`id`, as they are, and no signature.

Objects are kept under `journal/<newest number>-<uuid>.json`. Their entries are written once; `keys rotate` signs them
anew (`operations.keys`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
from pydantic import ValidationError

from sagaz_tiering.catalog.journal import JournalEntry
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.errors import CorruptData, MasterKeyUnavailable, ObjectArchived, ObjectNotFound, SagazTieringError
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.ownership import claim_prefix, secure
from sagaz_tiering.keys.master import WrappedKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo, in_pages
from sagaz_tiering.storage_class import StorageClass

PREFIX = "journal/"
MOST_BYTES = 16 * 2**20
"""Of one object; what is written stays far below."""
_log = Logger(__name__)
PUBLISH_WITHIN = timedelta(seconds=5)
"""A hold or an erasure waits so long for the bucket; then a daemon sees to it."""
_PAGE = 1_000
_PAGE_BYTES = 4 * 2**20
_AT_ONCE = 8
_KEPT = timedelta(days=30)
_AHEAD = timedelta(hours=1)
"""An entry may be so far ahead of our clock."""


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


async def publish_journal(context: JobContext) -> int:
    """Write what the bucket lacks; how many entries. A crash in between writes some once more: no harm.

    The mark moves first, with the newest number: a catalog that was put back from before them is behind from then on.
    Raises ForeignCatalog, MasterKeyUnavailable (they wait), or what catalog and object store raise.
    """
    published, journal = 0, context.catalog.journal
    while await journal.any_unpublished():
        signing = await context.keys.signing(await claim_prefix(context))
        row = await secure(context, move=True)
        while entries := _first_bytes(await journal.unpublished(_PAGE)):
            data = build(row.catalog_id, entries, signing)
            key, digest = object_key(entries[-1].number, uuid4()), hashlib.sha256(data).digest()
            await context.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=digest)
            await journal.published([entry.number for entry in entries], context.now)
            published += len(entries)
    await journal.prune(context.now - _KEPT)
    return published


async def try_to_publish(context: JobContext, within: timedelta = PUBLISH_WITHIN) -> str:
    """Why entries are not in the bucket yet; "" when all are. A daemon publishes them later."""
    try:
        async with asyncio.timeout(within.total_seconds()):
            await publish_journal(context)
    except TimeoutError:
        return f"not written within {within.total_seconds():g} s"
    except SagazTieringError as exc:
        _log.warning("journal.not_published", error=str(exc), hint=exc.hint)
        return str(exc)
    return ""


def _first_bytes(entries: list[JournalEntry]) -> list[JournalEntry]:
    """As many of the first as one object takes."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(orjson.dumps(entry.body, default=str))
        if size > _PAGE_BYTES and count:
            return entries[:count]
    return entries


class Numbers:
    """Which numbers behind one were met: in order but for a few, so that what is kept are the gaps."""

    def __init__(self, behind: int) -> None:
        self._met = [(behind, behind)]

    def add(self, numbers: Iterable[int]) -> None:
        """These were met, once more perhaps."""
        for number in sorted(numbers):
            first, last = self._met[-1]
            if number == last + 1:
                self._met[-1] = (first, number)
            elif not first <= number <= last:
                self._met.append((number, number))

    def missing(self, newest: int) -> list[tuple[int, int]]:
        """(first, last) of each row of numbers up to `newest` that were not met."""
        found, after = [], self._met[0][0]
        for first, last in [*sorted(self._met), (newest + 1, newest + 1)]:
            if first > after + 1:
                found.append((after + 1, first - 1))
            after = max(after, last)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An object of the bucket's journal: its good entries, and what is wrong with it or with others of its entries.

    `doubtful`: it is not signed, or not with a key that opens here, although a master key is configured. `found` is the
    object as it was read, `tag` names this writing of it; None and "" where it is none of this catalog's.
    """

    key: str
    entries: tuple[JournalEntry, ...]
    wrong: tuple[str, ...] = ()
    doubtful: bool = False
    found: JournalObject | None = None
    tag: str = ""

    @property
    def signed_by(self) -> str:
        """The master key of its signature; "" where nobody signed it."""
        return "" if self.found is None or self.found.key is None else self.found.key.master_id

    async def sign_anew(self, context: JobContext, signing: tuple[WrappedKey, bytes]) -> bool:
        """Put the same entries under this signature in its place; False: others changed it. Raises ObjectNotFound."""
        assert self.found is not None  # who asks has seen that it is ours
        return await context.objects.swap(self.key, sign_anew(self.found, signing), self.tag)


async def read_journal(context: JobContext, catalog_id: UUID, *, behind: int = 0) -> AsyncIterator[Told]:
    """Every object with entries behind a number, in the order of their numbers; some entries may come twice.

    What is not a journal, of another catalog or forged is named, and the rest goes on; holds a few objects in memory.
    Raises MasterKeyUnavailable where signatures cannot be checked at all.
    """
    signs = context.keys.signs()
    if signs:
        await context.keys.check()
    listed = context.objects.list(PREFIX, start_after=f"{PREFIX}{behind:020d}~" if behind else "")
    async for page in in_pages(listed, _AT_ONCE):
        for told in await asyncio.gather(*(_told(context, each, catalog_id, signs=signs) for each in page)):
            yield told


async def _told(context: JobContext, info: ObjectInfo, catalog_id: UUID, *, signs: bool) -> Told:
    try:
        data, tag = await context.objects.get_tagged(info.key, most=MOST_BYTES)
        found = parse(data)
        if found.catalog_id != str(catalog_id):
            raise CorruptData(f"it is of catalog {found.catalog_id!r:.60}")
        doubtful = signs and not await _is_genuine(context, found)
    except (CorruptData, ObjectNotFound, ObjectArchived) as exc:
        return Told(key=info.key, entries=(), wrong=(str(exc),))
    good, wrong = [], []
    for number, each in enumerate(found.entries):
        try:
            good.append(check_entry(each, context.now + _AHEAD))
        except CorruptData as exc:
            wrong.append(f"entry {number}: {exc}")
    return Told(key=info.key, entries=tuple(good), wrong=tuple(wrong), doubtful=doubtful, found=found, tag=tag)


async def _is_genuine(context: JobContext, found: JournalObject) -> bool:
    """Whether it is signed with a key that a master key of ours opens. Raises CorruptData where it is forged."""
    if found.key is None:
        return False
    try:
        secret = (await context.keys.open(found.key)).secret
    except MasterKeyUnavailable as exc:
        _log.warning("journal.key_not_opened", error=str(exc))
        return False
    if not found.is_signed_with(secret):
        raise CorruptData("its signature is not of these entries: it was altered or forged")
    return True
