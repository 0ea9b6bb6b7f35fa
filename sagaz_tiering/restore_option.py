"""What an archived snapshot's error offers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOption:
    """One way to make archived bytes readable: how long it takes and what it costs (USD)."""

    tier: str
    eta: timedelta
    cost_usd: float

    def __str__(self) -> str:
        """For people, like `Standard: up to 12 h, $0.0100`."""
        minutes = int(self.eta.total_seconds() // 60)
        wait = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
        return f"{self.tier}: up to {wait}, ${self.cost_usd:.4f}"
