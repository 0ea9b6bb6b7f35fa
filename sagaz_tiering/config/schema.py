"""What every configuration model shares: typos refused, values frozen, input never echoed by accident."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

Location = tuple[int | str, ...]
"""Path of a value inside the configuration: keys and list positions, outermost first."""

DEFAULT_TEXT = "default_text"
"""Key of `Field(json_schema_extra=…)` that says in words what a default is that is not a plain value."""


class StrictModel(BaseModel):
    """A section of the configuration: unknown keys are refused and nothing changes after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if found := list(self._problems()):
            raise refusal(type(self).__name__, found)
        return self

    def _problems(self) -> Iterable[tuple[Location, str]]:
        """What cannot be of these values together, each with where it is in the section."""
        return ()


def keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by the keys that they have in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


@cache
def words(model: type[BaseModel]) -> Mapping[str, str]:
    """What each key of a section is for: the docstring under its field, by the key that it has in a file.

    Read when somebody asks: for each section that costs more than all else that is done to check a file.
    """
    told: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, BaseModel) and each is not BaseModel:
            told |= _docstrings(each)
    return {field.alias or name: told[name] for name, field in model.model_fields.items() if name in told}


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    try:
        source = inspect.getsource(model)
    except (OSError, TypeError):  # it came without its source
        return {}
    section = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(section, ast.ClassDef)
    found = {}
    for each, after in zip(section.body, section.body[1:], strict=False):
        match each, after:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(said))):
                found[name] = inspect.cleandoc(said)
    return found


def problem(message: str) -> PydanticCustomError:
    """A validation error that says exactly `message` (pydantic prefixes the text of a plain ValueError)."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def refusal(title: str, problems: Iterable[tuple[Location, str]]) -> ValidationError:
    """Several located problems as one error; a validator that raises it keeps each location."""
    details = [InitErrorDetails(type=problem(text), loc=where, input=None) for where, text in problems]
    return ValidationError.from_exception_data(title, details, hide_input=True)


def dotted(location: Iterable[int | str]) -> str:
    """A location for people: `policies[0].move[1].after`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
