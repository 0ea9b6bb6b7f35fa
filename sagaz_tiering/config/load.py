"""Reading the configuration file: a checked `TieringConfig`, or a ConfigError that names every line to correct."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sagaz_tiering.config import CONFIG_VARIABLE, written
from sagaz_tiering.config.lint import policy_warnings, settings_warnings
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.schema import Location, dotted, keys, words
from sagaz_tiering.config.urls import redacted
from sagaz_tiering.errors import ConfigError, PolicyError
from sagaz_tiering.storage_class import StorageClass

MAX_FILE_BYTES = 2**20
CHECK_HINT = "nothing was started; correct it, then try it with `sagaz-tiering policy check`"
_LEAST = (
    "the least that it says is: {tiers: {hot: {url: redis://HOST:6379/0}, cold: {url: s3://BUCKET/PREFIX}}, "
    "catalog: {url: postgresql://USER@HOST/DATABASE}}"
)
_NOT_SAID_TWICE = "default_factory_not_called"
"""pydantic's note that one value was not computed because another one, reported too, is wrong."""
_FILLED_IN: Location = ("tiers", "durable", "url")
"""What is catalog.url where nobody wrote it, so that a wrong one would be told twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigWarning:
    """Something allowed but doubtful. `source` is `FILE:LINE` or names an environment variable."""

    message: str
    location: Location
    source: str

    def __str__(self) -> str:
        where = f"{dotted(self.location)}: " if self.location else ""
        return f"{self.source}: {where}{self.message}"


def load_config(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> TieringConfig:
    """The configuration in the YAML file `path`, with `environ` (by default the process's) on top, checked.

    The environment is read here, once: a TieringConfig that is built in code never asks it. Relative paths in the file
    start at its directory. Raises ConfigError (PolicyError where only policies are wrong) that lists every problem with
    its line or environment variable; no secret is ever in it.
    """
    return _load(path, environ)[0]


def load_with_warnings(
    path: str | os.PathLike[str],
    minimum_durations: Callable[[str | None], Mapping[StorageClass, timedelta]],
    environ: Mapping[str, str] | None = None,
) -> tuple[TieringConfig, list[ConfigWarning]]:
    """Like `load_config`, with everything in it that is allowed but doubtful, in the order of the file.

    `minimum_durations` tells for a region how long each class is paid for at least.
    """
    config, origin = _load(path, environ)
    remarks = list(settings_warnings(config, origin.in_file))
    minimum = minimum_durations(config.tiers.cold.region)
    remarks += [(("policies", *where), text) for where, text in policy_warnings(config.policies, minimum)]
    remarks.sort(key=lambda remark: origin.place.line_of(remark[0]))
    warnings = [ConfigWarning(message=text, location=where, source=origin.source_of(where)) for where, text in remarks]
    warnings += [
        ConfigWarning(message=f"sets nothing; {advice}", location=(), source=f"environment variable {name}")
        for name, advice in written.ignored_variables(origin.environ, tuple(TieringConfig.model_fields))
    ]
    return config, warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where each value of a configuration comes from: a line of the file or an environment variable."""

    name: str
    place: written.YamlLocation
    environ: Mapping[str, str] = field(repr=False)
    overrides: dict[str, Any] = field(repr=False)

    def in_file(self, location: Location) -> bool:
        return self.place.has(location) and not self._in_environment(location)

    def is_filled_in(self, location: Location) -> bool:
        return location == _FILLED_IN and not self.place.has(location) and not self._in_environment(location)

    def source_of(self, location: Location) -> str:
        variable = self.variable_of(location)
        return f"environment variable {variable}" if variable else f"{self.name}:{self.place.line_of(location)}"

    def variable_of(self, location: Location) -> str | None:
        return written.variable_of(self.environ, location) if self._in_environment(location) else None

    def _in_environment(self, location: Location) -> bool:
        part: Any = self.overrides
        for key in location:
            if not isinstance(part, Mapping):
                return True
            if key not in part:
                return False
            part = part[key]
        return not isinstance(part, Mapping) or not self.place.has(location)


def given_urls(environ: Mapping[str, str], settings: Iterable[str]) -> dict[str, str]:
    """Which of these settings (`catalog.url`) the environment gives. Raises ConfigError for what cannot be read."""
    found: dict[str, str] = {}
    given = written.overrides(environ, tuple(TieringConfig.model_fields))
    for name in settings:
        value: Any = given
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            found[name] = value
    return found


def variable_named(setting: str) -> str:
    """The variable that would set it."""
    return written.variable_for(tuple(setting.split(".")))


def config_of(text: str, name: str) -> TieringConfig:
    """The configuration of a file that says `text`, without an environment; errors name it so. Raises ConfigError."""
    return _checked(text, name, {})[0]


def _load(path: str | os.PathLike[str], environ: Mapping[str, str] | None) -> tuple[TieringConfig, _Origin]:
    config, origin = _checked(_read(Path(path)), os.fspath(path), dict(os.environ if environ is None else environ))
    for location, url in ((("catalog", "url"), config.catalog.url), (("tiers", "hot", "url"), config.tiers.hot.url)):
        url.given_in = origin.variable_of(location)
    return config.anchored_at(Path(os.path.abspath(path)).parent), origin


def _checked(text: str, name: str, environ: dict[str, str]) -> tuple[TieringConfig, _Origin]:
    values, place = written.parse_yaml(text, name)
    if values is None:
        raise ConfigError(f"{name}: is empty", hint=_LEAST)
    if not isinstance(values, dict):
        raise ConfigError(f"{name}:{place.line}: must be a mapping with the sections tiers, catalog and policies")
    found = written.overrides(environ, tuple(TieringConfig.model_fields))
    origin = _Origin(name=name, place=place, environ=environ, overrides=found)
    try:
        config = TieringConfig.model_validate(written.layered(found, values))
    except ValidationError as exc:
        # Without its cause, whose text can quote a key: {redis://:PASSWORD@host} in braces is one.
        raise _config_error(exc.errors(include_url=False), origin) from None
    return config, origin


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as exc:
        hint = f"give its path, or set {CONFIG_VARIABLE}; {_LEAST}"
        raise ConfigError(f"{path}: no such file", hint=hint) from exc
    except IsADirectoryError as exc:
        raise ConfigError(f"{path}: is a directory; give the path of the YAML file in it") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so it is not a configuration file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        # The cause would carry the bytes of the whole file, secrets included.
        raise ConfigError(f"{path}:{line}: not UTF-8; save the file as UTF-8 text") from None


def _config_error(errors: list[ErrorDetails], origin: _Origin) -> ConfigError:
    told = [error for error in errors if error["type"] != _NOT_SAID_TWICE and not origin.is_filled_in(error["loc"])]
    told.sort(key=lambda error: origin.place.line_of(error["loc"]))
    lines = [_line(error, origin) for error in told]
    kind = PolicyError if all(error["loc"][:1] == ("policies",) for error in told) else ConfigError
    text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines])
    return kind(text, hint=CHECK_HINT)


def _line(error: ErrorDetails, origin: _Origin) -> str:
    location = error["loc"]
    text = describe(error)
    if error["type"] == "missing" and not any(isinstance(part, int) for part in location):
        text += f", or set {written.variable_for(location)}"
    shown = dotted(redacted(part) if isinstance(part, str) else part for part in location)
    return f"{origin.source_of(location)}: {shown}: {text}"


_TEXTS = {
    "must be text": ("string_type",),
    "must be a whole number": ("int_type", "int_parsing", "int_from_float"),
    "must be true or false": ("bool_type", "bool_parsing"),
    "must be a path": ("path_type",),
    "must be a list (lines that start with -)": ("tuple_type",),
    "must be a mapping (lines of key: value)": ("model_type", "model_attributes_type", "dict_type"),
}
_PLAIN = {kind: text for text, kinds in _TEXTS.items() for kind in kinds}


def describe(error: ErrorDetails) -> str:
    """One sentence on what is wrong and what would be right. Values are never quoted, except of enums."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(error["loc"])
    if kind == "missing":
        return "is required but missing; add it"
    if kind in ("enum", "literal_error"):
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
    for name, each in keys(model).items():
        here = f"{path}.{name}" if path else name
        yield here, model, each
        section = section_of(each.annotation)
        if section is not None:
            is_list = "tuple" in str(each.annotation)
            yield from keys_of(section, f"{here}[]" if is_list else here)
