"""What the console can be asked: paths with checked parameters, each answered as a page and as JSON alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from sagaz_tiering.console.access import Visitor
from sagaz_tiering.console.documents import Documents
from sagaz_tiering.sagaz_engine.capture import hint_of_saga_id

_Found = TypeVar("_Found")
MOST_TEXT: Final = 1_000
MOST_FILE: Final = 2**20


class BadQuestion(Exception):
    """A parameter is missing or is not what it must be; the text says which, and how to write it."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


class NotThere(Exception):
    """Nothing of that is there; the text says what, and where to look."""


def there(found: _Found | None, problem: str) -> _Found:
    """`found`. Raises NotThere where it is nothing."""
    if not found:
        raise NotThere(problem)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A value that is asked with. `kind`: uuid, int, time, text, flag, file; `choices` where only some are known."""

    name: str
    about: str
    kind: str = "text"
    choices: tuple[str, ...] = ()
    required: bool = False
    default: Any = None
    least: int = 0
    most: int = 2**63 - 1

    def read(self, given: str | None) -> Any:
        """The value, or the default where nothing is given. Raises BadQuestion."""
        if given is None or given == "":
            if self.required:
                raise BadQuestion(f"{self.name} is missing: {self.about}")
            return self.default
        if self.choices and given not in self.choices:
            raise BadQuestion(f"{self.name} must be one of {', '.join(self.choices)}")
        return getattr(self, f"_{self.kind}")(given)

    def schema(self) -> dict[str, Any]:
        """As OpenAPI has it."""
        kinds: dict[str, dict[str, Any]] = {
            "uuid": {"type": "string", "format": "uuid"},
            "flag": {"type": "boolean"},
            "int": {"type": "integer", "minimum": self.least, "maximum": self.most},
        }
        found = kinds.get(self.kind, {"type": "string", "maxLength": self._most_text})
        if self.required and found["type"] == "string":
            found["minLength"] = 1
        if self.choices:
            found["enum"] = list(self.choices)
        return found

    def _uuid(self, given: str) -> UUID:
        try:
            return UUID(given)
        except ValueError:
            hint = hint_of_saga_id(given) if self.name == "saga_id" else ""
            raise BadQuestion(f"{self.name} must be a UUID", hint) from None

    def _int(self, given: str) -> int:
        try:
            value = int(given) if len(given) < 20 and given.isascii() else None
        except ValueError:
            value = None
        if value is None or not self.least <= value <= self.most:
            raise BadQuestion(f"{self.name} must be a number from {self.least} to {self.most}")
        return value

    def _time(self, given: str) -> datetime:
        try:
            moment = datetime.fromisoformat(given)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadQuestion(f"{self.name} must be a time such as 2026-01-31 or 2026-01-31T12:00:00Z") from None

    def _flag(self, given: str) -> bool:
        if given not in ("true", "false", "on"):
            raise BadQuestion(f"{self.name} must be true or false")
        return given != "false"

    def _text(self, given: str) -> str:
        if len(given) > self._most_text:
            raise BadQuestion(f"{self.name} is longer than {self._most_text} characters")
        return given

    _file = _text

    @property
    def _most_text(self) -> int:
        return MOST_FILE if self.kind == "file" else MOST_TEXT


Asked = Mapping[str, Any]
"""The values of a question, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleView:
    """Something to look at: `path` on the site, the same behind `/api/v1`.

    `document` makes what is shown, with whatever of it cannot be had told in its place, and raises NotThere; names in
    it that begin with `_` are for the page alone. `command` tells what does the same on the command line, of what was
    asked and found. `is_fragment`: a part that other pages fetch behind their first paint; alone it is a page too.
    """

    path: str
    title: str
    template: str
    about: str
    command: Callable[[Asked, Mapping[str, Any]], str]
    document: Callable[[Documents, Asked], Awaitable[dict[str, Any]]]
    parameters: tuple[Parameter, ...] = ()
    is_fragment: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something to do, for operators: a form's POST to `path`, the same behind `/api/v1`.

    `do` does it and returns what became of it; `subject` names what it is done to, for the audit; `then` is the page to
    go on with.
    """

    path: str
    name: str
    about: str
    do: Callable[[Documents, Asked, Visitor], Awaitable[dict[str, Any]]]
    subject: Callable[[Asked], str]
    then: Callable[[Asked, dict[str, Any]], str]
    parameters: tuple[Parameter, ...]


def says(command: str) -> Callable[[Asked, Mapping[str, Any]], str]:
    """That command, with what was asked for where it names it in braces."""
    return lambda asked, _: command.format(**asked)


def path_names(path: str) -> frozenset[str]:
    """The parameters in a path such as `/restores/{restore_id}`."""
    return frozenset(part[1:-1] for part in path.split("/") if part.startswith("{"))
