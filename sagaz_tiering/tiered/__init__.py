"""The facade: one storage over all tiers."""

from sagaz_tiering.tiered.explanation import Explanation
from sagaz_tiering.tiered.storage import TieredSnapshotStorage

__all__ = ["Explanation", "TieredSnapshotStorage"]
