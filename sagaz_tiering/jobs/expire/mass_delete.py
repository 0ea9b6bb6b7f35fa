"""Large deletes stop and ask (guarantees G9 and G14): nothing ends earlier than it was promised by a slip of the pen.

What goes at the date that was recorded for it needs no question, however much it is. Policies that would end snapshots
earlier (a shorter `retain`, or a `match` that no longer covers them) are accepted only where that concerns a small
share of what each policy keeps, or where an operator says so; until then what was promised holds, for readers and jobs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sagaz_tiering.catalog.durable import FALLBACK_NOTICE
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.config.lint import used_policies
from sagaz_tiering.config.policy import ClockSource, Retention
from sagaz_tiering.config.sections import JobSettings
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.errors import MassDelete
from sagaz_tiering.jobs.claims import headers_of
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.expire.recompute import Dates, ends_earlier, outdated_packs, recompute_expiry
from sagaz_tiering.jobs.saga_ends import SagaEnds, saga_ends
from sagaz_tiering.policy import Policy, PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_ROWS = 2_000
_ENOUGH_PACKS = 1_000
"""A run that must stop looks at so many packs before it says so; a dry run looks at all."""
_RULES_NAMED = 3


@dataclass(slots=True, kw_only=True)
class Shortened:
    """Snapshots that policies would end earlier than they were promised to, by the policy that promised it.

    `now`: of those, the ones that would go at once. `rules`: which rule becomes which, in words.
    `held`: holds are in force, which keep what they are on whatever is allowed.
    """

    before: PolicySet | None
    after: PolicySet
    now_us: int
    held: bool = False
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


def refusal(shortened: Shortened, options: JobSettings, *, at_least: bool = False) -> MassDelete | None:
    """The error that stops a run, if something must. Pure."""
    found = too_much(shortened, options)
    if not found:
        return None
    told = []
    for policy, count in found.items():
        rules = ", ".join(said for said, _ in shortened.rules[policy].most_common(_RULES_NAMED))
        total, now = max(count, shortened.totals[policy]), shortened.now[policy]
        told.append(
            f"{'at least ' if at_least else ''}{count:,} of {total:,} snapshots of policy {policy!r} would end earlier "
            f"than promised, {now:,} of them at once: {rules}"
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
            error = refusal(found, context.settings.jobs, at_least=True)
            assert error is not None
            raise error
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
    if old.clock is not new.clock and (old.clock, new.clock) != (ClockSource.CREATED_AT, ClockSource.SAGA_END):
        return True
    if old.retain == new.retain or new.is_for_ever:
        return False
    durations = isinstance(old.retain, timedelta) and isinstance(new.retain, timedelta)
    return not (durations and old.lifetime is not None and new.lifetime is not None and new.lifetime >= old.lifetime)


async def _count_hot(context: JobContext, found: Shortened) -> None:
    async for saga_ids in context.hot.saga_ids():
        for start in range(0, len(saga_ids), context.settings.jobs.batch_sagas):
            batch = saga_ids[start : start + context.settings.jobs.batch_sagas]
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


async def durable_rows(context: JobContext) -> AsyncIterator[list[tuple[SnapshotMeta, int | None]]]:
    """Pages of all durable rows, each with its recorded expiry (None: never)."""
    after = UUID(int=0)
    while rows := await context.catalog.durable.metas(after, _ROWS):
        yield rows
        after = rows[-1][0].snapshot_id


def _named(name: str, policy: Policy | None) -> str:
    """A policy and its word on retention."""
    if policy is None:
        return f"{name!r} (as recorded)"
    retain = policy.retain
    said = "no retain" if retain is None else f"retain {retain if isinstance(retain, str) else format_duration(retain)}"
    return f"{name!r} ({said}{'' if policy.retention is Retention.LONGEST else f', retention {policy.retention}'})"
