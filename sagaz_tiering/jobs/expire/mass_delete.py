"""Large deletes stop and ask (guarantees G9 and G14): nothing ends earlier than it was promised by a slip of the pen.

What goes at the date that was recorded for it needs no question, however much it is. Policies that would end snapshots
earlier (a shorter `retain`, or a `match` that no longer covers them) are accepted only where that concerns a small
share of what each policy keeps, or where an operator says so; until then what was promised holds, for readers and jobs.

New retention rules apply to what is archived already: expiry dates are computed anew from the packs' footers. Until a
pack is dated anew nothing in it is deleted, so a policy that retains longer never comes too late.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import UUID

from sagaz_tiering.catalog.durable import FALLBACK_NOTICE
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.sagas import promised_us
from sagaz_tiering.config.lint import used_policies
from sagaz_tiering.config.sections import JobSettings
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.errors import CorruptPack, MassDelete, ObjectStoreError
from sagaz_tiering.jobs.claims import SagaEnds, headers_of, saga_ends
from sagaz_tiering.jobs.context import JobContext, Tally, batched, each_pack, pages
from sagaz_tiering.jobs.pack_objects import compare_frames, vouched
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.reader import PackReader
from sagaz_tiering.policy import NOT_PROMISED, Policy, PolicySet, SagaEnd, latest
from sagaz_tiering.snapshot import SnapshotMeta

_ROWS = 2_000
_ENOUGH_PACKS = 1_000
"""A run that must stop looks at so many packs before it says so; a dry run looks at all."""
_RULES_NAMED = 3
_log = Logger(__name__)
_PAGE = 50


@dataclass(slots=True, kw_only=True)
class Shortened:
    """Snapshots that policies would end earlier than they were promised to, by the policy that promised it.

    `now`: of those, the ones that would go at once. `rules`: which rule becomes which, in words.
    `held`: holds are in force, which keep what they are on whatever is allowed. `at_least`: there may be more of them.
    """

    before: PolicySet | None
    after: PolicySet
    now_us: int
    held: bool = False
    at_least: bool = False
    totals: Counter[str] = field(default_factory=Counter)
    earlier: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)
    rules: dict[str, Counter[str]] = field(default_factory=dict)

    def add(
        self, policy: str, meta: SnapshotMeta, saga: SagaEnd, promised_us: int | None, expires_us: int | None
    ) -> None:
        """Count a snapshot, unless it keeps its date, or that has passed."""
        if not ends_earlier(expires_us, promised_us) or (promised_us is not None and promised_us <= self.now_us):
            return
        self.earlier[policy] += 1
        self.now[policy] += expires_us is not None and expires_us <= self.now_us
        old, new = None if self.before is None else self.before.named(policy), self.after.for_meta(meta, saga)
        said = f"{_named(policy, old)} -> {_named(new.name, new)}"
        self.rules.setdefault(policy, Counter())[said] += 1

    def add_unpacked(self, meta: SnapshotMeta, ends: SagaEnds) -> None:
        """The same of one that is in no pack, and of the total of its policy."""
        assert self.before is not None  # who promised it
        saga = ends.of(meta)
        policy = self.before.for_meta(meta, saga).name
        self.totals[policy] += 1
        expires_us = self.after.expires_us(meta, ends.of(meta, promised=False))
        self.add(policy, meta, saga, self.before.expires_us(meta, saga), expires_us)


def too_much(shortened: Shortened, options: JobSettings) -> dict[str, int]:
    """The policies of which more would end earlier than may without a question, and how many. Pure."""
    found = {}
    for policy, count in shortened.earlier.items():
        total = max(count, shortened.totals[policy])
        free = min(options.expire_free_count, total // 100)
        if count > max(free, total * options.expire_max_share):
            found[policy] = count
    return found


def refusal(shortened: Shortened, options: JobSettings) -> MassDelete | None:
    """The error that stops a run, if something must. Pure."""
    found = too_much(shortened, options)
    if not found:
        return None
    told = []
    for policy, count in found.items():
        rules = ", ".join(said for said, _ in shortened.rules[policy].most_common(_RULES_NAMED))
        total, now = max(count, shortened.totals[policy]), shortened.now[policy]
        number = f"{'at least ' if shortened.at_least else ''}{count:,} of {total:,}"
        told.append(
            f"{number} snapshots of policy {policy!r} would end earlier than promised, {now:,} of them at once: {rules}"
        )
    before = "" if shortened.before is None else f"{shortened.before.retention_revision} -> "
    return MassDelete(
        f"{'; '.join(told)} (retention rules {before}{shortened.after.retention_revision}); jobs.expire_max_share lets "
        f"a share of {options.expire_max_share:.3g} of each policy go unasked; nothing was removed, all stays readable",
        hint=(
            "look at it with: sagaz-tiering job expire --dry-run; if it is meant, run once: "
            "sagaz-tiering job expire --once --allow-mass-delete; else correct `retain` or `match` (a renamed saga or "
            "policy needs its rule)"
            + ("; holds in force keep what they are on all the same" if shortened.held else ", or place holds")
        ),
    )


async def accept_policies(context: JobContext, lease: Lease, tally: Tally) -> JobContext:
    """Have the policies of the run rule alone; the run's context from now on. Raises MassDelete: nothing has changed.

    Order: packs in which nothing ends earlier are dated anew while the others are counted; then those, and durable
    rows; this run is to look at all that is hot; readers learn that the new rules count. A crash leaves what was
    promised readable, since until the last step the earlier rules count too; the next run repeats the rest.
    """
    own = context.by(context.policies.own)
    if (error := await question(context, tally, lease=lease)) is not None:
        raise error
    async for dates in outdated_packs(own, lease, tally, promised=keeps_promises(context.policies)):
        await recompute_expiry(own, lease, dates, tally)
    if context.policies.before is None or context.stopping.is_set():
        return own if context.policies.before is None else context
    async for rows in durable_rows(own):
        ends = await saga_ends(own, {meta.saga_id for meta, _ in rows})
        new = [(meta, own.policies.expires_us(meta, ends.of(meta))) for meta, _ in rows]
        await context.catalog.durable.recompute_expiry(new)
    async for saga_ids in context.hot.saga_ids():
        await context.hot.queue.requeue(saga_ids, expiring=True)
    await context.catalog.history.accept(own.policies.retention_text, context.now)
    await asyncio.sleep(FALLBACK_NOTICE.total_seconds())
    return own


async def question(context: JobContext, tally: Tally, *, lease: Lease | None = None) -> MassDelete | None:
    """What stops a run of `expire` by these policies, if something does; nothing is asked where an operator allowed it.

    The rest is as with `count_shortened`.
    """
    if context.allow_mass_delete or context.settings.jobs.expire_max_share >= 1:
        return None
    return refusal(await count_shortened(context, tally, lease=lease), context.settings.jobs)


async def count_shortened(context: JobContext, tally: Tally, *, lease: Lease | None = None) -> Shortened:
    """What the policies of the run would end earlier. With a `lease`, packs in which nothing does are dated anew, and
    the count stops early once it is too much."""
    own, before = context.by(context.policies.own), context.policies.before
    found = Shortened(before=before, after=own.policies, now_us=context.now_us)
    found.held = bool(await context.catalog.holds.in_force(most=1))
    found.totals.update(await context.catalog.packs.live_of_policies())
    if before is not None and may_shorten(before, own.policies):
        await _count_hot(context, found)
        await _count_durable(context, found)
    looked_at = 0
    async for dates in outdated_packs(own, lease, Tally(None), promised=keeps_promises(context.policies)):
        earlier = [] if _was_accepted(context, dates) else dates.earlier
        for meta in earlier:
            promised_us, expires_us = dates.recorded_us[meta.snapshot_id], dates.expires_us[meta.snapshot_id]
            found.add(dates.pack.policy, meta, dates.ends.of(meta), promised_us, expires_us)
        if lease is not None and not earlier:
            await recompute_expiry(own, lease, dates, tally)
        looked_at += 1
        if lease is not None and looked_at >= _ENOUGH_PACKS and too_much(found, context.settings.jobs):
            found.at_least = True
            break
    return found


def _was_accepted(context: JobContext, dates: Dates) -> bool:
    """Dated by a process that had these policies already and waited for them to be accepted, which they are by now."""
    dated_by = dates.pack.retention_revision
    return context.policies.before is None and dated_by.startswith(f"{context.policies.retention_revision}+")


def keeps_promises(policies: PolicySet) -> bool:
    """Whether these end nothing earlier than those before them, so that all that was promised still counts. Pure."""
    return policies.before is not None and not may_shorten(policies.before, policies.own)


def may_shorten(before: PolicySet, after: PolicySet) -> bool:
    """Whether any snapshot could end earlier by other policies; True where that is not plain. Pure."""
    olds, news = used_policies(before.policies), used_policies(after.policies)
    if all(new.is_for_ever for new in news) and any(new.match.is_catch_all for new in news):
        return False
    if len(olds) != len(news):
        return True
    return any(_may_end_earlier(old, new) for old, new in zip(olds, news, strict=True))


def _may_end_earlier(old: Policy, new: Policy) -> bool:
    if (old.match, old.retention) != (new.match, new.retention):
        return True
    # No saga ends before any of its snapshots was made.
    if old.clock != new.clock and (old.clock, new.clock) != ("created_at", "saga_end"):
        return True
    if old.retain == new.retain or new.is_for_ever:
        return False
    durations = isinstance(old.retain, timedelta) and isinstance(new.retain, timedelta)
    return not (durations and old.lifetime is not None and new.lifetime is not None and new.lifetime >= old.lifetime)


async def _count_hot(context: JobContext, found: Shortened) -> None:
    async for saga_ids in context.hot.saga_ids():
        for batch in batched(saga_ids, context.settings.jobs.batch_sagas):
            ends = await saga_ends(context, batch)
            async for page in headers_of(context, batch):
                for meta in page.metas:
                    found.add_unpacked(meta, ends)


async def _count_durable(context: JobContext, found: Shortened) -> None:
    """Rows that Redis does not have; the others were counted there."""
    async for rows in durable_rows(context):
        hot = await context.hot.owners([meta.snapshot_id for meta, _ in rows])
        ends = await saga_ends(context, {meta.saga_id for meta, _ in rows})
        for meta, _ in rows:
            if meta.snapshot_id not in hot:
                found.add_unpacked(meta, ends)


def durable_rows(context: JobContext) -> AsyncIterator[Sequence[tuple[SnapshotMeta, int | None]]]:
    """Pages of all durable rows, each with its recorded expiry (None: never)."""
    fetch = partial(context.catalog.durable.metas, limit=_ROWS)
    return pages(fetch, UUID(int=0), lambda row: row[0].snapshot_id)


def _named(name: str, policy: Policy | None) -> str:
    """A policy and its word on retention."""
    if policy is None:
        return f"{name!r} (as recorded)"
    retain = policy.retain
    said = "no retain" if retain is None else f"retain {retain if isinstance(retain, str) else format_duration(retain)}"
    return f"{name!r} ({said}{'' if policy.retention == 'longest' else f', retention {policy.retention}'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dates:
    """The live snapshots of a pack, when they expire as recorded, and when by the policies of a run (None: never).

    `kept_us`: until when those keep their sagas.
    """

    pack: Pack
    metas: list[SnapshotMeta]
    recorded_us: dict[UUID, int | None]
    expires_us: dict[UUID, int | None]
    ends: SagaEnds
    kept_us: dict[UUID, int | None]

    @property
    def earlier(self) -> list[SnapshotMeta]:
        """Those that would end earlier than recorded."""
        return [m for m in self.metas if ends_earlier(self.expires_us[m.snapshot_id], self.recorded_us[m.snapshot_id])]


def ends_earlier(one_us: int | None, other_us: int | None) -> bool:
    """Whether the first expiry comes before the second; None: never."""
    return one_us is not None and (other_us is None or one_us < other_us)


async def outdated_packs(
    context: JobContext, lease: Lease | None, tally: Tally, *, promised: bool = False
) -> AsyncIterator[Dates]:
    """Packs whose dates are of other retention rules than the run's; one small GET a pack. What cannot be read, or does
    not fit the catalog, is told and left out: nothing of it expires. Without a `lease` nothing is noted.

    `promised`: what the rules before promised still counts.
    """
    revision = context.policies.retention_revision
    async for pack in each_pack(lambda last: context.catalog.packs.outdated(revision, last, _PAGE)):
        if context.stopping.is_set():
            return
        try:
            dates = await _dates(context, lease, pack, promised)
        except (ObjectStoreError, CorruptPack) as exc:
            tally.failed(pack.object_key, f"not dated anew, nothing of it expires: {exc}")
            _log.error("pack.not_redated", pack_id=pack.pack_id, object_key=pack.object_key, error=str(exc))
        else:
            yield dates


async def recompute_expiry(context: JobContext, lease: Lease, dates: Dates, tally: Tally) -> None:
    """From now on the pack's snapshots expire by the policies of the run."""
    pack_id, revision = dates.pack.pack_id, context.policies.retention_revision
    await context.catalog.packs.recompute_expiry(pack_id, dates.expires_us, revision, lease, kept_us=dates.kept_us)
    tally.add("packs_redated")


async def _dates(context: JobContext, lease: Lease | None, pack: Pack, promised: bool) -> Dates:
    if lease is not None and not pack.storage_class.is_archive:
        pack = await vouched(context, lease, pack, "expire")
    footer = await PackReader(context.objects).footer(pack)
    if compare_frames(pack, await context.catalog.scrubbing.frames(pack.pack_id), footer).wrong:
        raise CorruptPack(f"{pack.object_key}: its footer has frames elsewhere than the catalog")
    recorded_us = await context.catalog.packs.expiries(pack.pack_id)
    metas = [e.meta for frame in footer.frames for e in frame.snapshots if e.meta.snapshot_id in recorded_us]
    ends = await saga_ends(context, {meta.saga_id for meta in metas})
    packed: dict[UUID, SagaEnd] = {}
    for entry in (entry for frame in footer.frames for entry in frame.snapshots):
        known = packed.get(entry.meta.saga_id)
        packed[entry.meta.saga_id] = SagaEnd.of(entry.meta) if known is None else known.and_of(entry.meta)
    policies = context.policies
    kept_us: dict[UUID, int | None] = dict.fromkeys(packed, NOT_PROMISED)
    for meta in metas:
        promise_us = policies.promise_us(meta, ends.of(meta, promised=promised))
        kept_us[meta.saga_id] = latest(kept_us[meta.saga_id], promise_us)
    expires_us = {}
    for meta in metas:
        end = ends.of(meta)._replace(kept_us=kept_us[meta.saga_id])
        found = policies.expires_us(meta, end)
        recorded = recorded_us[meta.snapshot_id]
        if ends_earlier(found, recorded):  # if the end of the saga was deleted since, that is no other rule
            as_packed = policies.expires_us(meta, end.and_of(packed[meta.saga_id]))
            found = latest(found, recorded if ends_earlier(recorded, as_packed) else as_packed)
            kept_us[meta.saga_id] = latest(kept_us[meta.saga_id], promised_us(meta, found))
        expires_us[meta.snapshot_id] = found
    return Dates(pack=pack, metas=metas, recorded_us=recorded_us, expires_us=expires_us, ends=ends, kept_us=kept_us)
