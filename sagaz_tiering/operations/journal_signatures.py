"""Who signed the journal in the bucket, and signatures of the current master key in the place of all others.

A rebuild counts only what a configured master key signed. So before an old one goes, what it signed is signed anew:
only what this catalog, the bucket's owner, knows to be so. What somebody forged with a key that became known stays as
it is, and is named. Objects are put in place of themselves one by one: stopped and repeated, it goes on with the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from sagaz_tiering.errors import ObjectNotFound
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.journal import Told, publish_journal, read_journal
from sagaz_tiering.jobs.ownership import claim_prefix
from sagaz_tiering.keys.master import WrappedKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import in_pages
from sagaz_tiering.terminal import counted

UNSIGNED: Final = "unsigned"
_AT_ONCE: Final = 8
_log = Logger(__name__)


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
        for told, why in zip(
            others, await asyncio.gather(*(_sign(context, each, signing) for each in others)), strict=True
        ):
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
