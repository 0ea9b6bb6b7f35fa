"""Everything that a deployment needs, looked at: what is fine, what is doubtful, what is wrong, what to do.

`run` asks one module per server or subject; each gives findings with a hint.
It never changes anything but the one object that it writes and removes to see whether it may.
"""

from sagaz_tiering.doctor.finding import Finding, Level
from sagaz_tiering.doctor.run import examine

__all__ = ["Finding", "Level", "examine"]
