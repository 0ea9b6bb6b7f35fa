"""Backups of data keys, and signatures of the bucket's journal by the current master key.

A backup is JSON lines. Its keys are wrapped, so it is worth nothing without the master key. With the keys comes what
they seal in the footers of packs: what sagas can be found by. The first line names the format and the catalog, the last
one counts: a backup that was cut off is refused whole. What an erasure destroyed stays destroyed: an import leaves it
out, as far as the catalog or the bucket's journal know.

A rebuild counts only what a configured master key signed. So before an old one goes, what it signed is signed anew:
only what this catalog, the bucket's owner, knows to be so. What somebody forged with a key that became known stays as
it is, and is named. Objects are put in place of themselves one by one: stopped and repeated, it goes on with the rest.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import orjson

from sagaz_tiering.catalog.saga_keys import StoredKey
from sagaz_tiering.drivers.files import flush_file, flush_folder, open_private, refusing
from sagaz_tiering.errors import (
    ConfigError,
    CorruptPack,
    LeaseLost,
    MasterKeyUnavailable,
    ObjectNotFound,
    ObjectStoreError,
)
from sagaz_tiering.jobs.attributes import mend, newest_footer
from sagaz_tiering.jobs.context import JobContext, Tally, each_pack
from sagaz_tiering.jobs.journal import Told, publish_journal, read_journal
from sagaz_tiering.jobs.ownership import claim_prefix
from sagaz_tiering.keys.master import WrappedKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import in_pages
from sagaz_tiering.terminal import counted

_FORMAT: Final = "sagaz_tiering_keys"
_PAGE: Final = 1000
_PACKS: Final = 100
_LEASE: Final = "keys"
_OTHER_FILE: Final = "name another file, or write over it with --force"
UNSIGNED: Final = "unsigned"
_AT_ONCE: Final = 8
_log = Logger(__name__)


@dataclass(slots=True, kw_only=True)
class Imported:
    """What an import did, in keys."""

    added: int = 0
    replaced: int = 0
    already_there: int = 0
    destroyed: int = 0


async def export_keys(context: JobContext) -> AsyncIterator[bytes]:
    """The lines of a backup of every data key, in bounded memory."""
    identity = await context.catalog.identity()
    yield orjson.dumps({_FORMAT: 1, "catalog_id": identity, "exported_at": context.now}) + b"\n"
    count, after = 0, UUID(int=0)
    while page := await context.catalog.saga_keys.page(after, _PAGE):
        for stored in page:
            yield _line(stored)
        count, after = count + len(page), page[-1].key.key_id
    yield orjson.dumps({"keys": count}) + b"\n"


async def write_backup(context: JobContext, path: Path, *, force: bool = False) -> int:
    """The same in a file for its owner alone, all at once and on disk; how many keys.

    It takes the place of an earlier backup of this catalog. Raises ConfigError, and leaves the file as it is, where
    that is something else, or has keys that are neither here nor erased since, unless with `force`. A link stays, and
    what is no file, such as a device, stays whatever `force` says.
    """
    path = _target(path)
    if not force and (before := _earlier(path)) is not None:
        await _check_replaceable(context, path, *before)
    count = -2  # the first and the last line are no keys
    with _put_in_place(path) as out:
        async for line in export_keys(context):
            out.write(line)
            count += 1
    return count


def _target(path: Path) -> Path:
    """The file that is meant, also through links. Raises ConfigError for what is none."""
    with refusing(f"{path} cannot be read", "name another file"):
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is there, and is no file", hint="name a file")
    return Path(os.path.realpath(path))


def _earlier(path: Path) -> tuple[str, list[StoredKey]] | None:
    """The catalog of the backup that is there, and its keys."""
    with refusing(f"{path} cannot be read", _OTHER_FILE):
        if not path.exists():
            return None
        lines = path.read_bytes().splitlines()
    try:
        return str(_parsed(1, lines[0] if lines else b"").get("catalog_id")), read_backup(lines)
    except ConfigError as exc:
        raise ConfigError(f"{path} is there, and is no whole key backup", hint=_OTHER_FILE) from exc


async def _check_replaceable(context: JobContext, path: Path, owner: str, stored: Sequence[StoredKey]) -> None:
    if owner != str(await context.catalog.identity()):
        raise ConfigError(f"{path} is a key backup of another catalog", hint=_OTHER_FILE)
    lost = 0
    for start in range(0, len(stored), _PAGE):
        lost += await context.catalog.saga_keys.lost(stored[start : start + _PAGE])
    if lost:
        raise ConfigError(
            f"{path} has {counted(lost, 'data key')} that the catalog lacks",
            hint=f"put them back first: sagaz-tiering keys import {path}; or write over it with --force",
        )


@contextmanager
def _put_in_place(path: Path) -> Iterator[BinaryIO]:
    """A file beside, for its owner alone, that takes this name at the end, on disk. Raises ConfigError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with refusing(f"{path} cannot be made"):
            with open(beside, "xb", opener=open_private) as out:
                yield out
                flush_file(out)
            beside.replace(path)
            flush_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


async def import_keys(context: JobContext, lines: Iterable[bytes]) -> Imported:
    """Put back the keys of a backup that are missing, or that no master key opens while the backup's are opened.

    Raises ConfigError (nothing was done) if it is not whole.
    """
    stored = read_backup(lines)
    gone = await _destroyed(context)
    wanted = [one for one in stored if one.key.key_id not in gone]
    done = Imported(destroyed=len(stored) - len(wanted))
    for start in range(0, len(wanted), _PAGE):
        page = wanted[start : start + _PAGE]
        there = await context.catalog.saga_keys.by_id([one.key.key_id for one in page])
        missing = [one for one in page if one.key.key_id not in there]
        added = await context.catalog.saga_keys.restore(missing)
        done.added += added
        both = [(there[one.key.key_id], one.key) for one in page if one.key.key_id in there]
        replaced = await _replace(context, both)
        done.replaced += replaced
        done.already_there += len(there) - replaced
        done.destroyed += len(missing) - added
    await _open_attributes(context, [one.key.key_id for one in wanted])
    return done


async def _replace(context: JobContext, pairs: Sequence[tuple[WrappedKey, WrappedKey]]) -> int:
    """Of (here, in the backup), how many are taken from the backup: those that open there and not here."""
    changed = [(old, new) for old, new in pairs if old.wrapped != new.wrapped]
    better = [(old, new) for old, new in changed if not await _opens(context, old) and await _opens(context, new)]
    return await context.catalog.saga_keys.rewrap(better) if better else 0


async def _opens(context: JobContext, key: WrappedKey) -> bool:
    try:
        await context.keys.masters.unwrap(key)
    except MasterKeyUnavailable:
        return False
    return True


async def _open_attributes(context: JobContext, key_ids: Sequence[UUID]) -> None:
    """A catalog that was rebuilt without these keys could not read what they seal in footers."""
    tally = Tally(None)
    async with context.catalog.leases.hold(_LEASE, context.owner, context.settings.jobs.lease_ttl) as lease:
        if lease is None:
            raise LeaseLost("another process imports keys")
        for start in range(0, len(key_ids), _PAGE):
            page = key_ids[start : start + _PAGE]
            async for pack in each_pack(partial(context.catalog.scrubbing.without_attributes, page, _PACKS)):
                try:
                    footer = await newest_footer(context, pack)
                except (ObjectStoreError, CorruptPack) as exc:
                    _log.error("footer.unreadable", object_key=pack.object_key, error=str(exc))
                else:
                    await mend(context, lease, pack, footer, tally, sealed_too=False)


def read_backup(lines: Iterable[bytes]) -> list[StoredKey]:
    """The keys of a backup. Raises ConfigError, naming the line."""
    found: list[StoredKey] = []
    count = None
    for number, line in enumerate(lines, start=1):
        document = _parsed(number, line)
        if number == 1:
            if document.get(_FORMAT) != 1:
                raise _wrong(number, "is not the first line of a key backup that this version knows")
        elif count is not None:
            raise _wrong(number, "comes after the end of the backup")
        elif "keys" in document:
            count = document["keys"]
        else:
            found.append(_stored(number, document))
    if count != len(found):
        raise ConfigError("the key backup is cut off, or keys of it are missing; nothing was imported")
    return found


async def _destroyed(context: JobContext) -> set[UUID]:
    """Keys that erasures destroyed, by what the bucket says: a rebuilt catalog does not know it."""
    gone: set[UUID] = set()
    async for told in read_journal(context, await context.catalog.identity()):
        for entry in told.entries:
            if entry.kind == "key_destroyed":
                gone.update(entry.body["key_ids"])
    return gone


def _line(stored: StoredKey) -> bytes:
    key = stored.key
    wrapped = base64.b64encode(key.wrapped).decode()
    document = {"key_id": key.key_id, "saga_id": key.saga_id, "wrapped": wrapped, "master_id": key.master_id}
    return orjson.dumps(document | {"created_at": stored.created_at}, default=str) + b"\n"


def _parsed(number: int, line: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise _wrong(number, f"is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise _wrong(number, "is not an object")
    return document


def _stored(number: int, document: dict[str, Any]) -> StoredKey:
    try:
        key = WrappedKey(
            key_id=UUID(document["key_id"]),
            saga_id=UUID(document["saga_id"]),
            wrapped=base64.b64decode(document["wrapped"], validate=True),
            master_id=str(document["master_id"]),
        )
        return StoredKey(key=key, created_at=datetime.fromisoformat(document["created_at"]))
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as exc:
        raise _wrong(number, f"is not a key: {type(exc).__name__}") from exc


def _wrong(number: int, reason: str) -> ConfigError:
    return ConfigError(f"line {number} of the key backup {reason}; nothing was imported")


async def entries_by_master(context: JobContext) -> tuple[dict[str, int], dict[str, int]]:
    """How many entries of the bucket's journal each master key signed, UNSIGNED too; and those that a rebuild would
    leave out, since that key is not configured. Reads the whole journal."""
    signed, left_out = Counter[str](), Counter[str]()
    async for told in read_journal(context, await context.catalog.identity()):
        master = told.signed_by or UNSIGNED
        signed[master] += len(told.entries)
        left_out[master] += len(told.entries) if told.doubtful else 0
    return dict(sorted((+signed).items())), dict(sorted((+left_out).items()))


async def sign_journal_anew(context: JobContext, tally: Tally) -> None:
    """Every entry that another master key signed, or nobody, under the current one, where this catalog knows it.

    Holds in force and erasures that the journal does not tell of then are told again: somebody may have put others in
    their place. Keeps their ids in memory.

    Counts entries: `journal_signed`, and `journal_left` of which a note says why. Raises ForeignCatalog,
    MasterKeyUnavailable, or what catalog and object store raise.
    """
    catalog_id = await claim_prefix(context)
    signing = await context.keys.signing(catalog_id)
    if signing is None:
        return
    known: set[UUID] = set()
    await publish_journal(context)
    async for page in in_pages(read_journal(context, catalog_id), _AT_ONCE):
        others = [told for told in page if told.found is not None and told.signed_by != signing[0].master_id]
        known |= _ids(told for told in page if told.signed_by == signing[0].master_id and not told.doubtful)
        reasons = await asyncio.gather(*(_sign(context, each, signing) for each in others))
        for told, why in zip(others, reasons, strict=True):
            tally.add("journal_left" if why else "journal_signed", len(told.entries))
            if why:
                tally.note(f"{told.key}: not signed anew: {why}")
                _log.error("journal.not_signed", object_key=told.key, reason=why)
            else:
                known |= _ids([told])
    missing = await context.catalog.catching_up.tell_again(context.now, known)
    if missing:
        told_again = counted(missing, "hold or erasure was", "holds and erasures were")
        tally.note(f"{told_again} missing in the bucket's journal, and told again")
    await publish_journal(context)


def _ids(journal: Iterable[Told]) -> set[UUID]:
    """Of the holds and erasures that these tell of."""
    names = {"hold": "hold_id", "forget": "erasure_id"}
    return {e.body[names[e.kind]] for told in journal for e in told.entries if e.kind in names}


async def _sign(context: JobContext, told: Told, signing: tuple[WrappedKey, bytes]) -> str:
    """Why it was not; "" where it is signed."""
    if told.found is None or told.wrong:
        return "; ".join(told.wrong)
    deleted = [each for entry in told.entries if entry.kind == "delete" for each in entry.body["snapshot_ids"]]
    in_redis = await context.hot.owners(deleted)  # first: what leaves Redis is in the catalog before
    doubtful = await context.catalog.catching_up.doubtful(told.entries, context.now, in_redis)
    if doubtful:
        names = ", ".join(f"{entry.kind} of {entry.at.isoformat()}" for entry in doubtful[:3])
        return f"this catalog does not know what it tells ({names}): forged, unless you know better"
    try:
        done = await told.sign_anew(context, signing)
    except ObjectNotFound as exc:
        return str(exc)
    return "" if done else "somebody else changed it at the same time: do it again"
