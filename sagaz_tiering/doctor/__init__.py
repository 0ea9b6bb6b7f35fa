"""Everything that a deployment needs, looked at: what is fine, what is doubtful, what is wrong, what to do."""

from sagaz_tiering.doctor.finding import Finding, Level
from sagaz_tiering.doctor.run import examine

__all__ = ["Finding", "Level", "examine"]
