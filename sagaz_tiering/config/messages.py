"""What pydantic found wrong with a configuration, said so that a person knows what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.schema import Location, keys, words

_PLAIN = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "path_type": "must be a path",
    "tuple_type": "must be a list (lines that start with -)",
    "model_type": "must be a mapping (lines of key: value)",
    "model_attributes_type": "must be a mapping (lines of key: value)",
    "dict_type": "must be a mapping (lines of key: value)",
}


def describe(error: ErrorDetails) -> str:
    """One sentence on what is wrong and what would be right. Values are never quoted, except of enums."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(error["loc"])
    if kind == "missing":
        return "is required but missing; add it"
    if kind == "enum":
        return _not_one_of(error["input"], str(context.get("expected", "")))
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"must be at least {context['ge']}" if "ge" in context else f"must be at most {context['le']}"
    if kind == "string_pattern_mismatch":
        return f"must match {context.get('pattern')}{_field_help(error['loc'])}"
    if kind in _PLAIN:
        return f"is empty; it {_PLAIN[kind]}" if error["input"] is None else _PLAIN[kind]
    return str(error["msg"])


def _unknown_key(location: Location) -> str:
    key, model = str(location[-1]), section_at(location[:-1])
    known = list(keys(model)) if model else []
    near = closest(key, known)
    if near:
        return f"unknown key; did you mean {near!r}?"
    elsewhere = _places_of_key().get(key)
    where = f"it is a key of {' and '.join(elsewhere)}; " if elsewhere else ""
    return f"unknown key; {where}the keys here are {', '.join(known)}"


def _not_one_of(given: Any, expected: str) -> str:
    accepted = re.findall(r"'([^']*)'", expected)
    near = closest(str(given), accepted)
    suggestion = f"; did you mean {near}?" if near else ""
    return f"{str(given)[:40]!r} is not one of {', '.join(accepted)}{suggestion}"


def closest(given: str, accepted: Sequence[str]) -> str | None:
    """The accepted word that `given` most resembles, whatever its case and hyphens; None where none does."""
    plain = {word.lower(): word for word in accepted}
    near = difflib.get_close_matches(given.lower().replace("-", "_"), plain, n=1)
    near = near or difflib.get_close_matches(given.lower(), plain, n=1)
    return plain[near[0]] if near else None


def section_at(location: Location) -> type[BaseModel] | None:
    """The model whose keys are allowed at `location`; None where no mapping belongs."""
    model: type[BaseModel] | None = TieringConfig
    for part in location:
        if isinstance(part, str):
            field = keys(model).get(part) if model else None
            model = section_of(field.annotation) if field else None
    return model


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside a type such as `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_of(part))), None)


def _field_help(location: Location) -> str:
    model = section_at(location[:-1])
    said = words(model).get(str(location[-1])) if model else None
    return f" ({said})" if said else ""


@cache
def _places_of_key() -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for path, _, _ in keys_of(TieringConfig):
        section, _, key = path.rpartition(".")
        places.setdefault(key, []).append(section or "the top level")
    return places


def keys_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel], FieldInfo]]:
    """Every key of a configuration model as a path (`policies[].move[].after`), its section and field, depth first."""
    for name, field in keys(model).items():
        here = f"{path}.{name}" if path else name
        yield here, model, field
        section = section_of(field.annotation)
        if section is not None:
            is_list = "tuple" in str(field.annotation)
            yield from keys_of(section, f"{here}[]" if is_list else here)
