"""Where a saga ends, as far as is known: what the rules that hold for a saga as a whole look at."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.config.patterns import outcome_of
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
