"""Where a snapshot goes next and when, and what blocks that; `explain`, `timeline`, `find` and the console ask here.

Pure. What is in a pack moves with it, also while a restore keeps a copy in Redis.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.costs import PackGroup, PriceList, judge_pack
from sagaz_tiering.policy import Decision, PolicySet

TOO_COSTLY = "costs more than it saves"


class NextMove(NamedTuple):
    """To which class, when at the earliest. `blocked`: why it is not made though it is due, `figures`: of what."""

    to: str
    at: datetime
    blocked: str | None = None
    figures: str | None = None

    def told(self, now: datetime) -> str:
        """For people and programs alike."""
        why = f" (blocked: {self.blocked})" if self.blocked else " (due)" if self.at <= now else ""
        return f"to {self.to} at {self.at.isoformat()}{why}"


def next_move(
    decision: Decision, pack: PackGroup | None, policies: PolicySet, prices: PriceList, now: datetime
) -> NextMove | None:
    """Unless it goes before or is there; `pack` holds it (None: none does)."""
    if decision.expired:
        return None
    if pack is None:
        moves = decision.rule.move
        at_us = decision.due_us
        return NextMove(moves[0].to.value, from_micros(at_us)) if moves and at_us is not None else None
    rule = policies.named(pack.policy) or decision.rule
    begun = max(from_micros(decision.clock_us), pack.max_clock_at)
    ahead = [move for move in rule.move if move.to.coldness > pack.storage_class.coldness]
    refused = None
    for move in reversed([move for move in ahead if to_micros(begun + move.after) <= to_micros(now)]):
        verdict = judge_pack(prices, rule, move, pack, now)
        if verdict.pays or rule.even_if_costlier:
            return NextMove(move.to.value, begun + move.after)
        refused = refused or NextMove(move.to.value, begun + move.after, TOO_COSTLY, verdict.why)
    if refused is not None or not ahead:
        return refused
    return NextMove(ahead[0].to.value, begun + ahead[0].after)
