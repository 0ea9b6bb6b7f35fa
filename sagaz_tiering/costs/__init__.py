"""What S3 costs: dated list prices per region, what moves cost and save, and what would be done now.

Pure: it never asks a server or a clock, and never moves anything; jobs and commands ask it.
"""

from __future__ import annotations

from sagaz_tiering.costs.advice import Advice, ClassCost
from sagaz_tiering.costs.buckets import bucket_end, bucket_of, ends_at
from sagaz_tiering.costs.choice import Share, choose_class, first_class, judge_pack, share_cost
from sagaz_tiering.costs.difference import Change, difference
from sagaz_tiering.costs.economics import (
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
from sagaz_tiering.costs.inputs import Due, Expired, Inputs, PackGroup, Rewriting
from sagaz_tiering.costs.plan import Line, Plan, plan
from sagaz_tiering.costs.prices import ClassPrices, PriceList, RestorePrices, minimum_durations

__all__ = [
    "FOR_EVER",
    "Advice",
    "Change",
    "ClassCost",
    "ClassPrices",
    "Cost",
    "Due",
    "Expired",
    "Inputs",
    "Line",
    "PackGroup",
    "Plan",
    "PriceList",
    "RestorePrices",
    "Rewriting",
    "Share",
    "Verdict",
    "bucket_end",
    "bucket_of",
    "choose_class",
    "difference",
    "ends_at",
    "first_class",
    "judge_move",
    "judge_pack",
    "life",
    "minimum_durations",
    "months",
    "plan",
    "restore_cost",
    "share_cost",
    "transition_cost",
    "upload_cost",
]
