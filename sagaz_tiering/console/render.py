"""Templates. What comes from a store is escaped, cannot turn the direction of text, and is cut where it is long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sagaz_tiering.config.sections import ConsoleSettings
from sagaz_tiering.console.charts import area, instant_ms, timeline_axis
from sagaz_tiering.terminal import need_millis, safe, show_bytes, show_counts, show_distance, show_time, show_usd

_MOST_TEXT: Final = 5_000
STATIC: Final[Mapping[str, tuple[str, bytes]]] = {
    name: (kind, (files("sagaz_tiering.console") / "static" / name).read_bytes())
    for name, kind in (
        ("console.css", "text/css"),
        ("console.js", "text/javascript"),
        ("htmx.min.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    )
}


def _shown(value: Any) -> Any:
    """Every value on its way into a page."""
    if isinstance(value, Markup) or value is None:
        return value if value is not None else ""
    return safe(value, limit=_MOST_TEXT)


def _moment(value: str | datetime | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def time_tag(value: str | datetime | None, nothing: str = "—", *, millis: bool = False) -> Markup:
    """A time in UTC; the script adds the local one, to be seen on hover."""
    moment = _moment(value)
    if moment is None:
        return escape(nothing)
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), show_time(moment, millis=millis))


def _need_millis(values: Iterable[str]) -> bool:
    return need_millis(map(datetime.fromisoformat, values))


def when_tag(value: str | datetime | None, now: datetime, nothing: str = "—") -> Markup:
    """How far a time is away, the time itself on hover."""
    moment = _moment(value)
    if moment is None:
        return escape(nothing)
    distance = show_distance(moment, now)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), show_time(moment), distance)


def count(value: int | None) -> str:
    """`12,345`; of what is unknown a word."""
    return "unknown" if value is None else f"{value:,}"


def with_query(query: Mapping[str, str], **changes: str) -> str:
    """The question of a page with other values, for a link."""
    return urlencode({**query, **changes}, errors="surrogatepass")


def _about_usd(amount: float) -> str:
    """To the cent: where amounts stand side by side."""
    return "< $0.01" if 0 < amount < 0.01 else show_usd(amount)


def _optional(show: Any) -> Any:
    return lambda value: "—" if value is None else show(value)


class Pages:
    """The templates, compiled once."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._environment = Environment(
            loader=PackageLoader("sagaz_tiering.console"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            time=time_tag,
            need_millis=_need_millis,
            when=when_tag,
            count=count,
            bytes=_optional(show_bytes),
            done=show_counts,
            usd=_optional(show_usd),
            ms=instant_ms,
            about_usd=_optional(_about_usd),
        )
        self._environment.globals.update(area=area, axis=timeline_axis, with_query=with_query, is_open=settings.is_open)

    def render(self, name: str, **values: Any) -> str:
        """The page of a template."""
        return self._environment.get_template(name).render(values)
