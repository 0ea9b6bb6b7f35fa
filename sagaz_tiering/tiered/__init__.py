"""The facade: one storage over all tiers."""

from sagaz_tiering.tiered.explanation import Explanation
from sagaz_tiering.tiered.storage import TieredStorage

__all__ = ["Explanation", "TieredStorage"]
