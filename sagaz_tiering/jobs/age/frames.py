"""Build frames out of values that are due: where `age` spends its time, so it is done on a thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from uuid import UUID

from sagaz_tiering.catalog.packs_anew import Reindexing
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.codec.header import raw_length
from sagaz_tiering.codec.value import Header, Record, decode, from_values, read_header
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.config.tiers import PackSettings
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.jobs.age.writes import REQUEUE_AFTER_US, needs_key
from sagaz_tiering.jobs.attributes import column_of
from sagaz_tiering.jobs.claims import Claim, SagaEnds
from sagaz_tiering.jobs.context import JobContext, Tally, chunks
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.entries import BuiltFrame
from sagaz_tiering.packs.frame import build_frames
from sagaz_tiering.policy import Decision, Policy
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_DAY_US: Final = 24 * 3600 * 1_000_000
RETRY_UNREADABLE_US: Final = _DAY_US
"""After so long a saga with a value that cannot be read is looked at again."""

CHUNK_BYTES = 8 * 2**20
"""Bodies that are decompressed at once, at most (a larger one is alone)."""

_AT_ONCE_BYTES: Final = 256 * 1024
"""Bodies that are decompressed, and frames that are compressed, in one call: few calls, that stay in the caches."""

Work = tuple[Claim, Sequence[bytes]]
"""Values of one saga that may be due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Values that may be due. Of the open_claims in `complete` nothing more follows. `strange` went into quarantine.

    `sagas`: of so many of them Redis has something; others left only their places in the due indexes.
    """

    work: Sequence[Work]
    complete: Sequence[Claim] = field(default=())
    sagas: int = 0
    durable_only: int = 0
    strange: int = 0

    @property
    def values(self) -> list[bytes]:
        return [value for _, values in self.work for value in values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A built frame on its way into a pack: whose claim it belongs to, and when it was due.

    `attributes_revision`: by which definitions its attributes are complete (None: nobody knows).
    """

    policy: Policy
    bucket: str
    frame: BuiltFrame
    claim: Claim
    oldest_due_us: int
    max_clock_us: int
    attributes_revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSupplies:
    """What frames are built with: data keys by saga, dictionaries by id to read, by saga name to write, pins by id,
    where the sagas end. What is `evicted` was in a pack already, and is not in Redis any more. What was saved before it
    was `reindexed` by the definitions in force may lack attributes.
    """

    keys: Mapping[UUID, FrameKey] = field(repr=False)
    known: Mapping[bytes, Dictionary]
    chosen: Mapping[str, Dictionary]
    pins_us: Mapping[UUID, int]
    ends: SagaEnds
    evicted: Collection[UUID]
    reindexed: Reindexing | None = None


def build(context: JobContext, work: Sequence[Work], supplies: FrameSupplies, tally: Tally) -> list[Part]:
    """Frames of each saga's values, by policy and expiry bucket (which is its last one's where the saga's end counts).

    Values that are not due, that a restore brought back, or that need a key which is not there, stay.
    """
    parts: list[Part] = []
    for some in chunks(work, raw_bytes, _AT_ONCE_BYTES):
        parts += _build_some(context, some, supplies, tally)
    return parts


def _build_some(context: JobContext, work: Sequence[Work], supplies: FrameSupplies, tally: Tally) -> list[Part]:
    due = _due(context, work, supplies, tally)
    records = from_values([(value, header) for _, value, header, _ in due], supplies.known)
    groups: dict[_Group, _Members] = {}
    for (claim, _, _, decision), record in zip(due, records, strict=True):
        if isinstance(record, CorruptRecord):
            _unreadable(record, claim, tally, context.now_us)
            continue
        record = _with_attributes(context, record, supplies)
        # Where a saga expires as a whole, what its snapshots ask for themselves does not part them.
        bucket = "" if decision.rule.clock == "saga_end" else expiry_bucket(decision.expires_us)
        groups.setdefault((claim, decision.policy, bucket, record.meta.saga_name), []).append((record, decision))
    return _parts(groups, context.settings.tiers.cold.pack, supplies)


def _with_attributes(context: JobContext, record: Record, supplies: FrameSupplies) -> Record:
    """With those that its save had not, since they were configured later."""
    run = supplies.reindexed
    if run is None or record.meta.saved_us >= to_micros(run.began_at):
        return record
    try:
        column = column_of(context.in_force.attributes, decode(record))
    except CorruptRecord:
        return record  # whoever reads it is told
    return record._replace(meta=record.meta._replace(attributes=column))


_Due = tuple[Claim, bytes, Header, Decision]
"""A value that is to be packed."""
_Group = tuple[Claim, str, str, str]
"""Claim, policy, expiry bucket ("": that of the last one to expire) and saga name of what goes into the same frame, if
it is not too much."""
_Members = list[tuple[Record, Decision]]


def _due(context: JobContext, work: Sequence[Work], supplies: FrameSupplies, tally: Tally) -> list[_Due]:
    """The values that are to be packed; of the others the claims are told when to look again."""
    found, now_us, decide = list[_Due](), context.now_us, context.policies.decide
    for claim, values in work:
        for value in values:
            try:
                header = read_header(value)
            except CorruptRecord as exc:
                _unreadable(exc, claim, tally, now_us)
                continue
            decision = decide(header.meta, supplies.ends.of(header.meta), now_us)
            if not decision.due or decision.expired:
                claim.follow(decision)
            elif _stays(header.meta, decision, claim, supplies, now_us):
                tally.add("waiting_for_key", _lacks_key(header.meta, decision, supplies))
            else:
                found.append((claim, value, header, decision))
    return found


def _stays(meta: SnapshotMeta, decision: Decision, claim: Claim, supplies: FrameSupplies, now_us: int) -> bool:
    """Whether a due snapshot is left where it is: gone already, pinned, or without its key."""
    if supplies.evicted and meta.snapshot_id in supplies.evicted:
        claim.left -= 1
        return True
    look_at_us = supplies.pins_us.get(meta.snapshot_id) if supplies.pins_us else None
    if look_at_us is None and _lacks_key(meta, decision, supplies):
        look_at_us = now_us + REQUEUE_AFTER_US
    if look_at_us is None:
        return False
    claim.look_at(look_at_us)
    claim.expire_at(decision.expires_us)
    return True


def _lacks_key(meta: SnapshotMeta, decision: Decision, supplies: FrameSupplies) -> bool:
    return needs_key(decision.rule) and meta.saga_id not in supplies.keys


def _unreadable(error: CorruptRecord, claim: Claim, tally: Tally, now_us: int) -> None:
    _log.error("snapshot.unreadable", tier="hot", error=str(error))
    tally.note(f"unreadable: {error}")
    claim.look_at(now_us + RETRY_UNREADABLE_US)


def _parts(groups: Mapping[_Group, _Members], pack: PackSettings, supplies: FrameSupplies) -> list[Part]:
    frames: dict[Dictionary | None, list[tuple[Claim, str, _Members]]] = {}
    for (claim, _, bucket, saga_name), whole in groups.items():
        split = chunks(whole, lambda member: len(member[0].body), pack.max_frame)
        chosen = frames.setdefault(supplies.chosen.get(saga_name), [])
        chosen += [(claim, bucket or _last_bucket(whole), members) for members in split]
    parts = []
    revision = None if supplies.reindexed is None else supplies.reindexed.revision
    for dictionary, some in frames.items():
        contents = [
            ([(record, decision.expires_us) for record, decision in members], _key(members, supplies))
            for _, _, members in some
        ]
        built = build_frames(contents, level=pack.level, dictionary=dictionary)
        parts += [_part(*about, frame, revision) for about, frame in zip(some, built, strict=True)]
    return parts


def _key(members: _Members, supplies: FrameSupplies) -> FrameKey | None:
    record, decision = members[0]
    return supplies.keys[record.meta.saga_id] if needs_key(decision.rule) else None


def _part(claim: Claim, bucket: str, members: _Members, frame: BuiltFrame, revision: str | None) -> Part:
    for _, decision in members:
        claim.expire_at(decision.expires_us)  # until it is evicted it is hot
    return Part(
        policy=members[0][1].rule,
        bucket=bucket,
        frame=frame,
        claim=claim,
        oldest_due_us=min(decision.due_us or 0 for _, decision in members),
        max_clock_us=max(decision.clock_us for _, decision in members),
        attributes_revision=revision,
    )


def _last_bucket(members: _Members) -> str:
    expiries = [decision.expires_us for _, decision in members]
    return expiry_bucket(None if None in expiries else max(each for each in expiries if each is not None))


def expiry_bucket(expires_us: int | None) -> str:
    """Snapshots that expire in the same month share packs, so that packs die whole."""
    return "never" if expires_us is None else _bucket_of_day(expires_us // _DAY_US)


@lru_cache(maxsize=4096)
def _bucket_of_day(day: int) -> str:
    return f"{from_micros(day * _DAY_US):%Y-%m}"


def raw_bytes(work: Work) -> int:
    """Of a saga's values, uncompressed."""
    return sum(map(raw_length, work[1]))
