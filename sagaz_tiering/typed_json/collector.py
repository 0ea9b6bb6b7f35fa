"""Keeping the garbage collector's full collections out of the way of a large value.

The collector counts the containers that are made. A large value makes so many that several full collections start
in the middle of it, each of which stops all threads for 20 to 100 ms, going through everything the process holds.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NEVER: Final = 2**31 - 1
_LONGEST: Final = 2.0  # seconds

_lock: Final = threading.Lock()
_users = 0
_since = 0.0
_threshold: int | None = None
"""The threshold of the oldest generation that is to come back, or None if it is not held."""


@contextmanager
def full_collections_later() -> Iterator[None]:
    """Let no full collection start by itself until the block is left, or another one has been for two seconds.

    Only the third threshold of the process is changed, and only for this time. That is sound: young garbage is
    collected as ever, references are counted as ever, `gc.collect()` works, and the collection that is due starts
    when the last block is left. One that is switched off, or whose thresholds are set by someone else meanwhile,
    is left as it is.
    """
    _hold()
    try:
        yield
    finally:
        _let_go()


def _hold() -> None:
    global _users, _since, _threshold  # the collector is one for the process, too
    with _lock:
        _users += 1
        if _users == 1:
            _since = time.monotonic()
            first, second, third = gc.get_threshold()
            if third != _NEVER:
                _threshold = third
                gc.set_threshold(first, second, _NEVER)
        elif time.monotonic() - _since > _LONGEST:
            _restore()  # one block follows another without a pause: collections are due sometimes


def _let_go() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _restore()


def _restore() -> None:
    global _threshold
    first, second, third = gc.get_threshold()
    if _threshold is not None and third == _NEVER:
        gc.set_threshold(first, second, _threshold)
    _threshold = None
