"""What every configuration model shares: typos refused, values frozen, input never echoed by accident."""

from __future__ import annotations

from collections.abc import Iterable
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

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

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
