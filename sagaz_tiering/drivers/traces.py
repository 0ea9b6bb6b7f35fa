"""Spans for the application's own traces, through the API of OpenTelemetry (extra `otel`) and nothing else.

Where the API is not installed, or nobody has set up a provider, `tracer` is None and nothing of it is ever called: who
is on a hot path asks that first, everybody else takes `span`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

PREFIX: Final = "sagaz_tiering."
_NOTHING: Final = nullcontext()

tracer: Tracer | None = None
"""Of the provider that was there when `follow` looked last."""


def follow() -> None:
    """Look whether the application has set up a provider: each storage and each daemon does as it is opened."""
    global tracer
    api: Any = sys.modules.get("opentelemetry.trace")  # who has set one up has imported it
    tracer = None
    if api is not None:
        provider = api.get_tracer_provider()
        if not isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
            tracer = provider.get_tracer("sagaz_tiering")


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """A span around a block, below the one that is open; an error that leaves the block is recorded in it."""
    if tracer is None:
        return _NOTHING
    return tracer.start_as_current_span(name, attributes=_named(attributes))


def note(**attributes: Any) -> None:
    """More of the span that is open. Ask for `tracer` first."""
    from opentelemetry.trace import get_current_span

    get_current_span().set_attributes(_named(attributes))


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    """By their full names; what is None is left out. Dots in a name are written as two underscores."""
    return {_full(name): _written(value) for name, value in attributes.items() if value is not None}


def _written(value: Any) -> Any:
    """Text that every exporter can encode."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _full(name: str) -> str:
    return name.replace("__", ".") if "__" in name else PREFIX + name
