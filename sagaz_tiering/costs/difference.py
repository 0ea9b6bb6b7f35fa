"""What another set of policies would do differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sagaz_tiering.costs.lines import Line
from sagaz_tiering.costs.plan import Plan

_COMPARED = ("snapshots", "packs", "bytes", "requests", "now_usd", "month_before_usd", "month_after_usd")
_SAME_USD = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A line that only one of two plans has, or that both have with other figures."""

    before: Line | None
    after: Line | None

    @property
    def line(self) -> Line:
        """Whichever is there, for its names."""
        found = self.after or self.before
        assert found is not None  # a change has at least one
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = ("action", "state", "policy", "source", "to")
        return {
            **{name: getattr(self.line, name) for name in names},
            "before": _figures(self.before),
            "after": _figures(self.after),
        }


def difference(before: Plan, after: Plan) -> tuple[Change, ...]:
    """Every line that differs, in the order of `after`, then what only `before` has."""
    old = {line.key: line for line in before.lines}
    new = {line.key: line for line in after.lines}
    changes = [
        Change(before=old.get(key), after=new.get(key)) for key in [*new, *(key for key in old if key not in new)]
    ]
    return tuple(change for change in changes if not _same(change))


def _same(change: Change) -> bool:
    if change.before is None or change.after is None:
        return False
    pairs = [(getattr(change.before, name), getattr(change.after, name)) for name in _COMPARED]
    return all(abs(old - new) <= _SAME_USD for old, new in pairs)


def _figures(line: Line | None) -> dict[str, Any] | None:
    return None if line is None else {name: getattr(line, name) for name in _COMPARED}
