"""The facade: one storage over all tiers.

`save` and `read` are its two paths, `freshness` says how far Redis alone may be trusted, `merge` which copy counts.
It never moves a snapshot between tiers, and never answers None for what it could not look for.
"""

from sagaz_tiering.tiered.compare import SnapshotDiff, StepChanges, step_labels
from sagaz_tiering.tiered.explain import Explanation, SagaExplanation
from sagaz_tiering.tiered.find import SagaFilters, SagaSummary
from sagaz_tiering.tiered.storage import TieredStorage

__all__ = [
    "Explanation",
    "SagaExplanation",
    "SagaFilters",
    "SagaSummary",
    "SnapshotDiff",
    "StepChanges",
    "TieredStorage",
    "step_labels",
]
