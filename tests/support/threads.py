"""Which threads write, read and compress large JSON."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sagaz_tiering.codec import typed_json
from sagaz_tiering.codec import value as codec
from sagaz_tiering.codec.typed_json import LARGE


@dataclass
class OfLarge:
    """Calls with or for LARGE bytes or more: the name of the function, and the thread."""

    calls: list[tuple[str, int]] = field(default_factory=list)

    def names(self) -> set[str]:
        return {name for name, _thread in self.calls}

    def threads(self, *names: str) -> set[int]:
        return {thread for name, thread in self.calls if not names or name in names}

    def noting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose calls are noted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            found = function(*args, **kwargs)
            values = [*args, *(found if type(found) is tuple else (found,))]
            if any(type(value) is bytes and len(value) >= LARGE for value in values):
                self.calls.append((name, threading.get_ident()))
            return found

        return call


@pytest.fixture
def of_large(monkeypatch: pytest.MonkeyPatch) -> OfLarge:
    """The functions that all storages use are called as ever, and the calls noted."""
    found = OfLarge()
    for module in (codec, typed_json):
        for name in ("dumps", "loads", "compress", "decompress"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, found.noting(name, getattr(module, name)))
    return found
