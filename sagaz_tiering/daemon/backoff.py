"""Waiting longer after each failure, at random, so that many daemons do not come back in step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import uniform


class FullJitter:
    """Delays drawn from 0 to `first`, then 0 to twice that, … at most `cap`.

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, *, first: timedelta, cap: timedelta, draw: Callable[[float, float], float] = uniform) -> None:
        """`draw(low, high)` gives seconds between the two."""
        self._first = first
        self._cap = cap
        self._draw = draw
        self._failures = 0

    def next(self) -> timedelta:
        """The delay after one more failure."""
        ceiling = min(self._cap, self._first * 2 ** min(self._failures, 32))
        self._failures += 1
        return timedelta(seconds=self._draw(0, ceiling.total_seconds()))

    def reset(self) -> None:
        """It worked; the next failure is the first again."""
        self._failures = 0
