"""What moves cost and save, and what would be done now: pure arithmetic on prices, no I/O, no clock."""

from __future__ import annotations

from sagaz_tiering.planning.buckets import bucket_end, bucket_of, ends_at
from sagaz_tiering.planning.choice import Share, choose_class, first_class, judge_pack, share_cost
from sagaz_tiering.planning.difference import Change, difference
from sagaz_tiering.planning.economics import (
    FOR_EVER,
    Cost,
    Verdict,
    judge_move,
    life,
    months,
    restore_cost,
    transition_cost,
    upload_cost,
)
from sagaz_tiering.planning.inputs import Due, Expired, Inputs, PackGroup, Rewriting
from sagaz_tiering.planning.layouts import Layout, compare_layouts
from sagaz_tiering.planning.plan import Line, Plan, plan
from sagaz_tiering.planning.recommendation import Advice, ClassCost

__all__ = [
    "FOR_EVER",
    "Advice",
    "Change",
    "ClassCost",
    "Cost",
    "Due",
    "Expired",
    "Inputs",
    "Layout",
    "Line",
    "PackGroup",
    "Plan",
    "Rewriting",
    "Share",
    "Verdict",
    "bucket_end",
    "bucket_of",
    "choose_class",
    "compare_layouts",
    "difference",
    "ends_at",
    "first_class",
    "judge_move",
    "judge_pack",
    "life",
    "months",
    "plan",
    "restore_cost",
    "share_cost",
    "transition_cost",
    "upload_cost",
]
