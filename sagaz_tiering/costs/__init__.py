"""What S3 costs: dated list prices per region, what moves cost and save, and what would be done now.

Pure: it never asks a server or a clock, and never moves anything; jobs and commands ask it.
"""

from __future__ import annotations

from sagaz_tiering.costs.economics import (
    Cost,
    bucket_end,
    bucket_of,
    first_class,
    judge_pack,
    life,
    months,
    restore_cost,
    share_cost,
    transition_cost,
    upload_cost,
)
from sagaz_tiering.costs.lines import Due, Expired, Inputs, Line, PackGroup
from sagaz_tiering.costs.prices import PriceList, minimum_durations

__all__ = [
    "Cost",
    "Due",
    "Expired",
    "Inputs",
    "Line",
    "PackGroup",
    "PriceList",
    "bucket_end",
    "bucket_of",
    "first_class",
    "judge_pack",
    "life",
    "minimum_durations",
    "months",
    "restore_cost",
    "share_cost",
    "transition_cost",
    "upload_cost",
]
