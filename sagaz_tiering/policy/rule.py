"""One policy, ready to be asked of many snapshots. Times are microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Callable

from sagaz_tiering.config.patterns import RUNNING, attributes_matcher, matcher
from sagaz_tiering.config.policy import ClockSource, Policy, Retention
from sagaz_tiering.config.units import micros
from sagaz_tiering.policy.saga_end import NOT_PROMISED, SagaEnd, latest
from sagaz_tiering.snapshot import SnapshotMeta


class PolicyRule:
    """A policy with its patterns compiled and its durations in microseconds."""

    def __init__(self, policy: Policy, *, of_sagas: bool) -> None:
        """`of_sagas`: among rules that keep a saga as a whole, so that all of it keeps what part was promised."""
        self.policy = policy
        self.has_saga_name: Callable[[str], bool] = matcher(policy.match.saga_name)
        self.has_step_name: Callable[[str], bool] = matcher(policy.match.step_name)
        self.has_status: Callable[[str], bool] = matcher(policy.match.status)
        self.has_outcome: Callable[[str], bool] = matcher(policy.match.outcome)
        self.has_attributes = attributes_matcher(policy.match.attributes)
        self.first_after_us = micros(policy.move[0].after) if policy.move else None
        self.lifetime_us = None if policy.lifetime is None else micros(policy.lifetime)
        self.is_for_ever = policy.is_for_ever
        self.own_counts = policy.asks_snapshot
        self.by_policy_alone = policy.retention is Retention.POLICY
        self.by_snapshot_alone = policy.retention is Retention.SNAPSHOT
        self.by_save = policy.clock is ClockSource.SAVED_AT
        self.by_end = policy.clock is ClockSource.SAGA_END
        # Else each snapshot keeps to its own date.
        self.keeps_promises = of_sagas and self.by_end and not self.by_policy_alone and not self.by_snapshot_alone
        self.running_us = max(micros(policy.running_at_most), self.first_after_us or 0)

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
