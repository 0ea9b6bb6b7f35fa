"""What the console can be asked: paths with checked parameters, each answered as a page and as JSON alike.

And the OpenAPI document of `/api/v1`, made of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
API: Final = "/api/v1"
_PROBLEMS: Final = {
    "400": "A parameter is missing or wrong.",
    "401": "A token is needed.",
    "403": "The operator's token is needed.",
    "404": "Nothing of that is there.",
    "409": "Something forbids it, such as a legal hold.",
    "429": "Too many wrong tokens came from there, or another export is under way.",
    "503": "A server that is needed does not answer.",
}


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


@dataclass(frozen=True, slots=True)
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
_Command = Callable[[Asked, Mapping[str, Any]], str]
_Document = Callable[[Documents, Asked], Awaitable[dict[str, Any]]]
_Deed = Callable[[Documents, Asked, Visitor], Awaitable[dict[str, Any]]]


def id_of(what: str) -> Parameter:
    """The id of a saga, a hold and so on, such as `saga_id`."""
    return Parameter(f"{what}_id", f"id of the {what}", "uuid", required=True)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something that can be asked for at `path` on the site, and at the same behind `/api/v1`."""

    path: str
    about: str
    parameters: tuple[Parameter, ...]

    @property
    def api_path(self) -> str:
        """Where the same is as JSON."""
        return f"{API}/overview" if self.path == "/" else f"{API}{self.path}"

    @property
    def names(self) -> frozenset[str]:
        """The parameters in a path such as `/restores/{restore_id}`."""
        return frozenset(part[1:-1] for part in self.path.split("/") if part.startswith("{"))

    def asked(self, in_path: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each parameter. Raises BadQuestion."""
        names = self.names
        return {one.name: one.read((in_path if one.name in names else given).get(one.name)) for one in self.parameters}


@dataclass(frozen=True, slots=True)
class ConsoleView(Endpoint):
    """Something to look at.

    `document` makes what is shown, with whatever of it cannot be had told in its place, and raises NotThere; names in
    it that begin with `_` are for the page alone. `command` tells what does the same on the command line, of what was
    asked and found. `is_fragment`: a part that other pages fetch behind their first paint; alone it is a page too.
    """

    title: str
    template: str
    command: _Command
    document: _Document
    is_fragment: bool = False


def view(
    path: str, title: str, command: str | _Command, parameters: Sequence[Parameter] = (), *, is_fragment: bool = False
) -> Callable[[_Document], ConsoleView]:
    """The view whose document the function makes, whose docstring says what it is about and whose name is that of the
    template. A `command` that is a text has in braces what was asked for."""
    says = command if callable(command) else lambda asked, _: command.format(**asked)

    def made(document: _Document) -> ConsoleView:
        about, template = document.__doc__ or "", f"{document.__name__}.html"
        return ConsoleView(path, about, tuple(parameters), title, template, says, document, is_fragment)

    return made


@dataclass(frozen=True, slots=True)
class Action(Endpoint):
    """Something to do, for operators: a form's POST to `path`.

    `do` does it and returns what became of it; `subject` names what it is done to, for the audit; `then` is the page to
    go on with: in braces what was asked for, in `then` also what became of it. `gives`: the kind of its answer.
    """

    name: str
    do: _Deed
    subject: Callable[[Asked], str]
    then: str
    gives: str = "application/json"


def action(
    path: str,
    parameters: Sequence[Parameter],
    *,
    subject: str | Callable[[Asked], str],
    then: str,
    gives: str = "application/json",
) -> Callable[[_Deed], Action]:
    """The action that the function does, which has its name and its docstring."""
    names = subject if callable(subject) else lambda asked: subject.format(**asked)

    def made(do: _Deed) -> Action:
        return Action(path, do.__doc__ or "", tuple(parameters), do.__name__.replace("_", " "), do, names, then, gives)

    return made


def described(views: Iterable[ConsoleView], posts: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, Any] = {}
    for view in views:
        parameters = [_parameter(each, "path" if each.name in view.names else "query") for each in view.parameters]
        answer = {"summary": view.about, "parameters": parameters, "responses": _responses()}
        paths.setdefault(view.api_path.removeprefix(API), {})["get"] = answer
    for post in posts:
        paths.setdefault(post.path, {})["post"] = _post(post)
    text = {"type": "string"}
    problem = {"type": "object", "required": ["problem", "hint"], "properties": {"problem": text, "hint": text}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "sagaz-tiering console", "version": "1"},
        "servers": [{"url": API}],
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": problem},
        },
        "paths": paths,
    }


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "required": parameter.required,
        "description": parameter.about,
        "schema": parameter.schema(),
    }


def _post(post: Endpoint) -> dict[str, Any]:
    fields = [each for each in post.parameters if each.name not in post.names]
    body = {
        "type": "object",
        "properties": {each.name: {**each.schema(), "description": each.about} for each in fields},
        "required": [each.name for each in fields if each.required],
    }
    return {
        "summary": post.about,
        "parameters": [_parameter(each, "path") for each in post.parameters if each.name in post.names],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _responses(post.gives if isinstance(post, Action) else "application/json"),
    }


def _responses(kind: str = "application/json") -> dict[str, Any]:
    done = {"type": "object"} if kind == "application/json" else {"type": "string", "format": "binary"}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "200": {"description": "What was asked for.", "content": {kind: {"schema": done}}},
        **{status: {"description": about, "content": content} for status, about in _PROBLEMS.items()},
    }
