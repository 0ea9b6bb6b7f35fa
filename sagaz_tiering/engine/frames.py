"""Build frames out of values that are due: where `age` spends its time, so it is done on a thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeVar
from uuid import UUID

import structlog

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec import Record, from_value, read_header
from sagaz_tiering.engine.frame_keys import LOOK_AGAIN_US, needs_key
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.engine.turns import Turn
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.pack.encryption import FrameKey
from sagaz_tiering.pack.entries import BuiltFrame
from sagaz_tiering.pack.frame import build_frame
from sagaz_tiering.policy import Decision, Policy
from sagaz_tiering.zstd import Dictionary

_log = structlog.get_logger(__name__)
_DAY_US: Final = 24 * 3600 * 1_000_000
RETRY_UNREADABLE_US: Final = _DAY_US
"""After so long a saga with a value that cannot be read is looked at again."""

Work = tuple[Turn, Sequence[bytes]]
"""Values of one saga that may be due."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A built frame on its way into a pack: whose turn it belongs to, and when it was due."""

    policy: Policy
    bucket: str
    frame: BuiltFrame
    turn: Turn
    oldest_due_us: int
    max_clock_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplies:
    """What frames are built with: data keys by saga, dictionaries by id to read, by saga name to write, pins by id.

    What is `evicted` was in a pack already, and is not in Redis any more.
    """

    keys: Mapping[UUID, FrameKey] = field(repr=False)
    known: Mapping[bytes, Dictionary]
    chosen: Mapping[str, Dictionary]
    pins_us: Mapping[UUID, int]
    evicted: Collection[UUID]


def build(context: JobContext, work: Sequence[Work], supplies: Supplies, tally: Tally) -> list[Part]:
    """Frames of each saga's values, by policy and expiry bucket.

    Values that are not due, that a restore brought back, or that need a key which is not there, stay.
    """
    parts: list[Part] = []
    for turn, values in work:
        groups: dict[tuple[str, str, str], list[tuple[Record, Decision]]] = {}
        for value in values:
            try:
                found = _due(context, value, turn, supplies, tally)
            except CorruptRecord as exc:
                _log.error("snapshot.unreadable", tier="hot", error=str(exc))
                tally.note(f"unreadable: {exc}")
                turn.look_at(context.now_us + RETRY_UNREADABLE_US)
                continue
            if found is not None:
                record, decision = found
                group = (decision.policy, expiry_bucket(decision.expires_us), record.meta.saga_name)
                groups.setdefault(group, []).append(found)
        for (_, bucket, _), members in groups.items():
            for frame in chunks(members, _body_size, context.options.max_frame):
                parts.append(_part(frame, bucket, turn, context.options.level, supplies))
    return parts


def _due(
    context: JobContext, value: bytes, turn: Turn, supplies: Supplies, tally: Tally
) -> tuple[Record, Decision] | None:
    """The record of a value that is to be packed; else its turn is told when to look again."""
    header, now_us = read_header(value), context.now_us
    meta = header.meta
    decision = context.policies.decide(meta, now_us)
    if not decision.due or decision.expired:
        turn.follow(decision)
        return None
    if supplies.evicted and meta.snapshot_id in supplies.evicted:
        turn.left -= 1
        return None
    pinned_us = supplies.pins_us.get(meta.snapshot_id) if supplies.pins_us else None
    if pinned_us is not None:
        turn.look_at(pinned_us)
        turn.expire_at(decision.expires_us)
        return None
    if needs_key(decision.rule) and meta.saga_id not in supplies.keys:
        turn.look_at(now_us + LOOK_AGAIN_US)
        turn.expire_at(decision.expires_us)
        tally.add("waiting_for_key")
        return None
    return from_value(value, header, supplies.known), decision


def _part(members: Sequence[tuple[Record, Decision]], bucket: str, turn: Turn, level: int, supplies: Supplies) -> Part:
    record, decision = members[0]
    for _, each in members:
        turn.expire_at(each.expires_us)  # until it is evicted it is hot
    return Part(
        policy=decision.rule,
        bucket=bucket,
        frame=build_frame(
            [(record, decision.expires_us) for record, decision in members],
            level=level,
            key=supplies.keys[record.meta.saga_id] if needs_key(decision.rule) else None,
            dictionary=supplies.chosen.get(record.meta.saga_name),
        ),
        turn=turn,
        oldest_due_us=min(decision.due_us or 0 for _, decision in members),
        max_clock_us=max(decision.clock_us for _, decision in members),
    )


def expiry_bucket(expires_us: int | None) -> str:
    """Snapshots that expire in the same month share packs, so that packs die whole."""
    return "never" if expires_us is None else _bucket_of_day(expires_us // _DAY_US)


@lru_cache(maxsize=4096)
def _bucket_of_day(day: int) -> str:
    return f"{from_micros(day * _DAY_US):%Y-%m}"


def _body_size(member: tuple[Record, Decision]) -> int:
    return len(member[0].body)


def chunks(items: Sequence[T], size: Callable[[T], int], limit: int) -> list[list[T]]:
    """Consecutive runs of `items` of at most `limit` together (a larger one is alone)."""
    found: list[list[T]] = []
    total = 0
    for item in items:
        if not found or total + size(item) > limit:
            found.append([])
            total = 0
        found[-1].append(item)
        total += size(item)
    return found
