"""What is allowed in a list of policies but probably not meant: unreachable, unmatched, costly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from sagaz_tiering.config.policy import Move, Policy, Retention
from sagaz_tiering.config.schema import Location
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.storage_class import StorageClass

_ENGINE_STAMPS = (
    "sagaz sets retention_until 30 days ahead unless ReplayConfig(retention_days=…) says otherwise, so what it saves "
    "is deleted after 30 days"
)


def policy_warnings(
    policies: Sequence[Policy], minimum_durations: Mapping[StorageClass, timedelta]
) -> Iterator[tuple[Location, str]]:
    """Every warning about these policies, in their order, each with where in the list it belongs.

    `minimum_durations` is the time each class bills at least (of the price list); a class that is not in it
    bills by the day.
    """
    for i, policy in enumerate(policies):
        remarks = (
            *_unreachable(policy, policies[:i]),
            *_unretained(policy),
            *_short_stays(policy, minimum_durations),
            *_thaws(policy),
        )
        yield from (((i, *where), text) for where, text in remarks)
    if not any(policy.match.is_catch_all for policy in policies):
        yield (), _no_catch_all(policies)


def _unreachable(policy: Policy, above: Sequence[Policy]) -> Iterator[tuple[Location, str]]:
    earlier = next((other for other in above if other.match.covers(policy.match)), None)
    if earlier is not None:
        yield (
            ("match",),
            f"policy {policy.name!r} is never used: {earlier.name!r} above it already matches everything it "
            f"could; move it above {earlier.name!r}",
        )


def _unretained(policy: Policy) -> Iterator[tuple[Location, str]]:
    """A `retain` that is missing, or that does not count."""
    if policy.retain is None and policy.retention is Retention.LONGEST:
        yield (
            (),
            f"policy {policy.name!r} has no `retain`, so a snapshot's own retention_until decides: {_ENGINE_STAMPS}; "
            "write retain: forever (or a duration), or retention: snapshot if that is meant",
        )
    if policy.retain is not None and policy.retention is Retention.SNAPSHOT:
        yield (
            ("retain",),
            "does not count: retention: snapshot asks the snapshot's own retention_until alone; remove one",
        )


def _short_stays(policy: Policy, minimum: Mapping[StorageClass, timedelta]) -> Iterator[tuple[Location, str]]:
    """Classes that are left before the time that they bill at least."""
    where: Location
    for i, move in enumerate(policy.move):
        if i + 1 < len(policy.move):
            leaves, where, what = policy.move[i + 1].after, ("move", i + 1, "after"), policy.move[i + 1].to.value
        elif policy.lifetime is not None:
            leaves, where, what = policy.lifetime, ("retain",), "deletion"
        else:
            return
        stay, least = leaves - move.after, minimum.get(move.to, timedelta(0))
        if stay < least:
            yield (
                where,
                f"stays in {move.to} only {format_duration(stay)} before {what}, but {move.to} bills at least "
                f"{format_duration(least)}; wait until {format_duration(move.after + least)}, or skip {move.to}",
            )


def _thaws(policy: Policy) -> Iterator[tuple[Location, str]]:
    """Moves out of an archive class: S3 copies such an object only after a restore."""
    moves: Sequence[Move] = policy.move
    for i, move in enumerate(moves[:-1]):
        if move.to.is_archive:
            yield (
                ("move", i + 1, "to"),
                f"moving from {move.to} to {moves[i + 1].to} has to restore every pack first, which takes hours "
                f"and is billed; move to {moves[i + 1].to} directly, or keep {move.to}",
            )


def _no_catch_all(policies: Sequence[Policy]) -> str:
    who = "no policy matches every snapshot, so those that none matches" if policies else "no policies, so snapshots"
    return (
        f"{who} stay in Redis and PostgreSQL, never move, and expire by their own retention_until ({_ENGINE_STAMPS}); "
        "add a last policy with match: {} and retain: forever"
    )
