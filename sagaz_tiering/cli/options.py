"""Options that commands share, how they are declared, and where the configuration is looked for.

Long lists come a page at a time: `--limit` of them, and `--cursor` for those behind the page before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sagaz_tiering.cli.stderr import UsageError
from sagaz_tiering.config import CONFIG_VARIABLE
from sagaz_tiering.errors import ConfigError

MOST = 2**31 - 1
"""Of anything that is counted: more is a slip of the finger, not a number to hand to a server."""
CONFIG_PLACES = (Path("config/tiering.yaml"), Path("/etc/sagaz-tiering/tiering.yaml"))

Text = str | None
Texts = list[str] | None
T = TypeVar("T")


def option(
    metavar: str, about: str, *names: str, completes: Callable[..., list[str]] | None = None, **more: Any
) -> Any:
    """What Typer takes of an option with a value; a shell completes it by the words that `completes` gives."""
    return typer.Option(*names, metavar=metavar or None, help=about, autocompletion=completes, **more)


def flag(name: str, about: str) -> Any:
    """An option that is given or not."""
    return typer.Option(name, help=about)


def argument(metavar: str, about: str | None = None, **more: Any) -> Any:
    """What Typer takes of an argument."""
    return typer.Argument(metavar=metavar, help=about, **more)


def words_of(module: str, name: str) -> Callable[[], list[str]]:
    """Words of a room below, which is imported where a shell asks for them."""
    return lambda: list(getattr(import_module(f"sagaz_tiering.{module}"), name))


_CONFIG = f"Configuration file. Default: ${CONFIG_VARIABLE}, else {CONFIG_PLACES[0]}, else {CONFIG_PLACES[1]}."
ConfigOption = Annotated[Path | None, option("FILE", _CONFIG, "--config", "-c")]
JsonOption = Annotated[bool, flag("--json", "Print one JSON document on stdout and nothing else there.")]
DebugOption = Annotated[bool, flag("--debug", "Log everything, and show the traceback of an error.")]
YesOption = Annotated[bool, option("", "Do not ask.", "--yes", "-y")]
WhoOption = Annotated[Text, option("NAME", "Default: the login name.", "--who")]
SagaArgument = Annotated[str, argument("SAGA_ID")]
AnySaga = Annotated[Text, argument("[SAGA_ID]")]
_Limit = Annotated[int, option("", "So many at most.", "--limit", "-l", min=1, max=MOST)]
_Cursor = Annotated[Text, option("TEXT", "Go on behind the page that said this.", "--cursor")]


def locate_config(given: Path | None) -> Path:
    """The configuration file to use; raises ConfigError that says where it was looked for."""
    if given is not None:
        return given
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    for place in CONFIG_PLACES:
        if place.exists():
            return place
    raise ConfigError(
        f"no configuration: ${CONFIG_VARIABLE} is not set, and neither {CONFIG_PLACES[0].absolute()} nor "
        f"{CONFIG_PLACES[1]} exists",
        hint="give one with --config FILE, or see it work without any: sagaz-tiering demo",
    )


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several options that make one value, for the annotation of a command's parameter: of each its kind and its
    default, by name; `make` makes the value of theirs."""

    options: Mapping[str, tuple[Any, Any]]
    make: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Paging:
    """The page that is asked for. Its methods raise UsageError for a cursor that is none of the list's."""

    limit: int
    cursor: Text

    @classmethod
    def up_to(cls, limit: int) -> Bundle:
        """`--limit` and `--cursor`, of a list of which so many are shown unless more are asked for."""
        return Bundle({"limit": (_Limit, limit), "cursor": (_Cursor, None)}, lambda given: cls(**given))

    def cut(self, rows: Sequence[T], key: Callable[[T], object]) -> tuple[list[T], Text]:
        """The first `limit` rows, and the cursor of those behind them; None where nothing is."""
        page = list(rows[: self.limit])
        return page, str(key(page[-1])) if len(rows) > self.limit else None

    def cut_by_time(self, rows: Sequence[T], key: Callable[[T], tuple[datetime, object]]) -> tuple[list[T], Text]:
        """The same of a list that goes by time; `key` gives that, and the item."""
        return self.cut(rows, lambda row: "/".join((key(row)[0].isoformat(), str(key(row)[1]))))

    def of(self, rows: Sequence[T], key: Callable[[T], object]) -> tuple[list[T], Text]:
        """The page of `rows` behind the row that the cursor is the key of."""
        start = 0
        if self.cursor is not None:
            start = next((at for at, row in enumerate(rows, 1) if str(key(row)) == self.cursor), 0)
            if not start:
                raise self._not_here()
        return self.cut(rows[start:], key)

    def behind_time(self, item: Callable[[str], T]) -> tuple[datetime, T] | None:
        """The time and the item of a cursor of `cut_by_time`; `item` makes the latter of its text."""
        if self.cursor is None:
            return None
        moment, _, name = self.cursor.partition("/")
        try:
            return datetime.fromisoformat(moment), item(name)
        except ValueError as exc:
            raise self._not_here() from exc

    def behind_number(self) -> int | None:
        """The cursor of a list that goes by numbers."""
        if self.cursor is not None and not self.cursor.isdecimal():
            raise self._not_here()
        return None if self.cursor is None else int(self.cursor)

    def _not_here(self) -> UsageError:
        hint = "pass on what the page before said, as it is: `next` of its JSON"
        return UsageError(f"{self.cursor!r:.80} is no cursor of this list", hint=hint)
