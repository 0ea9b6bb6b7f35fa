"""One policy asked of many snapshots, and the end of a saga that it looks at. Times are microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.config.patterns import RUNNING, attributes_matcher, matcher, outcome_of
from sagaz_tiering.config.policy import Policy
from sagaz_tiering.config.units import micros
from sagaz_tiering.snapshot import SnapshotMeta

NOT_PROMISED = -(2**62)
"""As `SagaEnd.kept_us`: nothing was promised."""


class SagaEnd(NamedTuple):
    """What rules look at that hold for a saga as a whole: where it ends as far as is known, its newest snapshot.

    `kept_us`: until when what was archived of it was promised to be kept (microseconds since 1970 UTC; None: for ever;
    NOT_PROMISED: nothing was). `attributes`: its column of attributes.
    """

    created_us: int
    step_index: int
    snapshot_id: UUID
    status: str
    kept_us: int | None = NOT_PROMISED
    attributes: str = ""

    @property
    def order_key(self) -> tuple[int, int, int]:
        """Ascending time-travel order (guarantee G5)."""
        return (self.created_us, self.step_index, self.snapshot_id.int)

    @property
    def outcome(self) -> str:
        """`completed`, `failed`, `rolled_back`, ..., or `running`."""
        return outcome_of(self.status)

    @classmethod
    def of(cls, meta: SnapshotMeta) -> SagaEnd:
        """That of a saga whose newest snapshot this is."""
        at, step = meta.created_us, meta.step_index
        return tuple.__new__(cls, (at, step, meta.snapshot_id, meta.status, NOT_PROMISED, meta.attributes))

    def and_of(self, other: SagaEnd | SnapshotMeta | None) -> SagaEnd:
        """The later of both, with all that was promised. A snapshot that both name is as `other` says.

        Of a meta without attributes they may not be known, so that those of the same snapshot stay.
        """
        if other is None:
            return self
        if isinstance(other, SnapshotMeta):
            if other.created_us < self.created_us:
                return self
            ours, theirs = self.order_key, other.order_key
            if theirs < ours:
                return self
            unknown = not other.attributes and theirs == ours
            attributes = self.attributes if unknown else other.attributes
            if theirs == ours and (self.status, self.attributes) == (other.status, attributes):
                return self
            return SagaEnd.of(other)._replace(kept_us=self.kept_us, attributes=attributes)
        end = self if other.order_key < self.order_key else other
        kept_us = latest(self.kept_us, other.kept_us)
        return end if kept_us == end.kept_us else end._replace(kept_us=kept_us)


def latest(one_us: int | None, other_us: int | None) -> int | None:
    """The later of two expiries; None: never."""
    return None if one_us is None or other_us is None else max(one_us, other_us)


class PolicyRule:
    """A policy with its patterns compiled and its durations in microseconds."""

    def __init__(self, policy: Policy, *, of_sagas: bool) -> None:
        """`of_sagas`: among rules that keep a saga as a whole, so that all of it keeps what part was promised."""
        self.policy = policy
        match = policy.match
        self.has_saga_name: Callable[[str], bool] = matcher(match.saga_name)
        self._has_step_name, self._has_status = matcher(match.step_name), matcher(match.status)
        self._has_outcome, self._has_attributes = matcher(match.outcome), attributes_matcher(match.attributes)
        self.first_after_us = micros(policy.move[0].after) if policy.move else None
        self.lifetime_us = None if policy.lifetime is None else micros(policy.lifetime)
        self.is_for_ever = policy.is_for_ever
        self.own_counts = policy.asks_snapshot
        self.by_policy_alone = policy.retention == "policy"
        self.by_snapshot_alone = policy.retention == "snapshot"
        self.by_save = policy.clock == "saved_at"
        self.by_end = policy.clock == "saga_end"
        # Else each snapshot keeps to its own date.
        self.keeps_promises = of_sagas and self.by_end and not self.by_policy_alone and not self.by_snapshot_alone
        self.running_us = max(micros(policy.running_at_most), self.first_after_us or 0)

    def has_names(self, saga_name: str, step_name: str, status: str) -> bool:
        """Whether the policy is for such snapshots, if their saga ends as it says."""
        return self.has_saga_name(saga_name) and self._has_step_name(step_name) and self._has_status(status)

    def has_end(self, outcome: str, attributes: str) -> bool:
        """Whether it is for sagas that end so."""
        return self._has_outcome(outcome) and self._has_attributes(attributes)

    def clock_us(self, meta: SnapshotMeta, saga: SagaEnd) -> int:
        if self.by_end:
            return max(saga.created_us, meta.created_us)
        return max(meta.saved_us, meta.created_us) if self.by_save else meta.created_us

    def due_us(self, meta: SnapshotMeta, saga: SagaEnd) -> int | None:
        if self.first_after_us is None:
            return None
        due_us = self.clock_us(meta, saga) + self.first_after_us
        if self.by_end and saga.outcome == RUNNING:
            return min(due_us, meta.created_us + self.running_us)
        return due_us

    def expires_us(self, meta: SnapshotMeta, saga: SagaEnd) -> int | None:
        """By the rule, the snapshot's own date and what its saga was promised."""
        if self.is_for_ever:
            return None
        if self.lifetime_us is None:
            expiry = meta.retention_us
        else:
            expiry = self.clock_us(meta, saga) + self.lifetime_us
            if meta.retention_us is not None and self.own_counts:
                expiry = max(expiry, meta.retention_us)
        if saga.kept_us == NOT_PROMISED or not self.keeps_promises:
            return expiry
        return latest(expiry, saga.kept_us)

    def at_least_us(self, meta: SnapshotMeta, saga: SagaEnd) -> int | None:
        """What the rule says, as far as neither the snapshot's own date nor a promise is asked."""
        if self.is_for_ever:
            return None
        return NOT_PROMISED if self.lifetime_us is None else self.clock_us(meta, saga) + self.lifetime_us
