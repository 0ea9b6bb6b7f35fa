"""What was written: YAML in which every value knows its line, and variables of the environment.

In YAML nothing is guessed. Plain scalars are text (only an empty one, `~` and `null` are null), so that `no`, `1:30`
and `0644` stay what was written; the models give them their types. Duplicate keys, tags, several documents and values
that contain themselves are refused; anchors, aliases and merge keys (`<<`) work, as long as what they say in full is
not too much.

`SAGAZ_TIERING_TIERS__HOT__URL` is `tiers.hot.url`, and wins over the file. A value that starts with `{` or `[` is JSON,
`null` is null, an empty variable counts as unset. A list (policies, attributes) can only be replaced as a whole.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

from sagaz_tiering.config import CONFIG_VARIABLE
from sagaz_tiering.config.schema import Location
from sagaz_tiering.config.urls import redacted
from sagaz_tiering.errors import ConfigError

_NULL, _STR, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "str", "merge"))
_CONTAINERS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}

MOST_VALUES: Final = 100_000
"""Keys and values of a text, each counted as often as aliases and merge keys repeat it: whoever reads them goes through
every one."""


class _Loader(yaml.SafeLoader):
    """Finds out only what is null and what is a merge key."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - pyyaml's own declaration, not ours to annotate


_Loader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), ["<"])


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlLocation:
    """Where a value was written: its line (from 1), and the same for what is inside it."""

    line: int
    inside: dict[int | str, YamlLocation] = field(default_factory=dict)

    def line_of(self, location: Location) -> int:
        """The line of the value at `location`, or of the closest value around it that was written."""
        place = self
        for part in location:
            if part not in place.inside:
                break
            place = place.inside[part]
        return place.line

    def has(self, location: Location) -> bool:
        """Whether a value was written at `location`."""
        place: YamlLocation | None = self
        for part in location:
            place = place.inside.get(part) if place else None
        return place is not None


def parse_yaml(text: str, name: str) -> tuple[Any, YamlLocation]:
    """The value of a YAML text and the places of its parts; `name` is what messages call the file.

    Raises ConfigError that names the line, never its content, since that may be a secret.
    """
    # The causes are cut off: they can quote what was written, and that may be a secret.
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {_problem(exc)}", hint=_HINT) from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigError(f"{name}:{line}: not valid YAML: it holds a control character", hint=_HINT) from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply to be a configuration") from None
    if node is None:
        return None, YamlLocation(line=1)
    value, place, _ = _Builder(name).build(node)
    return value, place


_HINT = (
    "check indentation (spaces, no tabs), quotes and colons at and above that line; a value that starts with "
    "one of * & ! @ % ` { [ needs quotes"
)


_BRACKETS = {"while parsing a flow mapping": "{", "while parsing a flow sequence": "["}


def _problem(error: yaml.MarkedYAMLError) -> str:
    """An open bracket by its line; else the parser's words without the names that it quotes from the file."""
    bracket = _BRACKETS.get(error.context or "")
    if bracket and error.context_mark and (error.problem or "").startswith("expected ',' or"):
        return f"the {bracket} of line {error.context_mark.line + 1} is not closed, or a comma is missing in it"
    return re.sub(r"'[^'<]{2,}'", "", error.problem or "cannot be parsed").strip()


class _Built(NamedTuple):
    value: Any
    place: YamlLocation
    size: int
    """Keys and values in it, itself included."""


class _Builder:
    """Turns nodes into values and places; each node once, however many aliases name it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._built: dict[int, _Built] = {}
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, within: yaml.Node | None = None) -> _Built:
        """The value of a node that stands `within` another."""
        built = self._built.get(id(node))
        self._add(1 if built is None else built.size, within or node)
        if built is not None:
            return built
        if id(node) in self._open:
            raise self._refused(node, "this value contains itself")
        self._open.add(id(node))
        before = self._count
        value, place = self._build(node)
        self._open.discard(id(node))
        built = self._built[id(node)] = _Built(value, place, 1 + self._count - before)
        return built

    def _add(self, number: int, node: yaml.Node) -> None:
        self._count += number
        if self._count > MOST_VALUES:
            why = f"with all that aliases (*) and merge keys (<<) repeat, there are more than {MOST_VALUES:,} values"
            raise self._refused(node, f"{why} up to here; a configuration has fewer")

    def _build(self, node: yaml.Node) -> tuple[Any, YamlLocation]:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and node.tag in (_NULL, _STR, _MERGE):
            return (None if node.tag == _NULL else node.value), YamlLocation(line=line)
        if node.tag not in _CONTAINERS:
            raise self._refused(node, "tags are not allowed; put a value that starts with ! in quotes")
        if isinstance(node, yaml.SequenceNode):
            parts = [self.build(item, node) for item in node.value]
            places: dict[int | str, YamlLocation] = {i: part.place for i, part in enumerate(parts)}
            return [part.value for part in parts], YamlLocation(line=line, inside=places)
        if not isinstance(node, yaml.MappingNode):
            raise self._refused(node, "this is neither text, a list nor a mapping")
        return self._mapping(node, line)

    def _mapping(self, node: yaml.MappingNode, line: int) -> tuple[dict[str, Any], YamlLocation]:
        own: dict[str, Any] = {}
        written: dict[int | str, YamlLocation] = {}
        bases: list[_Built] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                bases += self._merged(value_node, key_node)
                continue
            key, key_line = self._key(key_node), key_node.start_mark.line + 1
            if key in own:
                raise self._refused(key_node, f"{redacted(key)} is already set at line {written[key].line}; keep one")
            own[key], place, _ = self.build(value_node, key_node)
            written[key] = YamlLocation(line=key_line, inside=place.inside)
        values: dict[str, Any] = {}
        inside: dict[int | str, YamlLocation] = {}
        for base in reversed(bases):  # the first one counts
            values |= base.value
            inside |= base.place.inside
        return values | own, YamlLocation(line=line, inside=inside | written)

    def _merged(self, node: yaml.Node, key: yaml.Node) -> list[_Built]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        parts = [self.build(each, key) for each in nodes]
        if not all(isinstance(part.value, dict) for part in parts):
            raise self._refused(node, "<< takes a mapping or a list of mappings")
        return parts

    def _key(self, node: yaml.Node) -> str:
        value = self.build(node).value
        if not isinstance(value, str):
            raise self._refused(node, "a key must be text")
        return value

    def _refused(self, node: yaml.Node, why: str) -> ConfigError:
        return ConfigError(f"{self._name}:{node.start_mark.line + 1}: {why}")


PREFIX = "SAGAZ_TIERING_"
SEPARATOR = "__"

_KUBERNETES = re.compile(r"SAGAZ_TIERING_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)")
"""What Kubernetes sets in every pod beside a service named sagaz-tiering."""


def overrides(environment: Mapping[str, str], sections: Sequence[str]) -> dict[str, Any]:
    """The settings in `environment` as a nested dict; only those whose first part is one of `sections`.

    Raises ConfigError that names the variable (never its value) for bad JSON, a part of a list, or one
    setting given both whole and in part.
    """
    found: dict[str, Any] = {}
    given = [
        (path, name) for name, text in environment.items() if (path := _path(name)) and path[0] in sections and text
    ]
    for path, name in sorted(given):
        if path[0] in ("policies", "attributes") and len(path) > 1:
            whole = f"{PREFIX}{path[0].upper()}"
            raise _unusable(name, f"{path[0]} are replaced as a whole; give a JSON list in {whole}")
        target: Any = found
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise _unusable(name, "another variable already sets the value around it; unset one of them")
        if path[-1] in target:
            raise _unusable(name, "another variable sets the same value; unset one of them")
        target[path[-1]] = _value(name, environment[name])
    return found


def variable_of(environment: Mapping[str, str], location: Location) -> str | None:
    """The variable that sets the value at `location`, around it or in it; None where it is not from there."""
    wanted = tuple(str(part).lower() for part in location)
    for name, text in environment.items():
        path = _path(name)
        if path and text and all(a == b for a, b in zip(path, wanted, strict=False)):
            return name
    return None


def variable_for(location: Location) -> str:
    """The name of the variable that would set `location`."""
    return PREFIX + SEPARATOR.join(str(part) for part in location).upper()


def ignored_variables(environment: Mapping[str, str], sections: Sequence[str]) -> list[tuple[str, str]]:
    """Variables with our prefix that set nothing, each with advice."""
    found = []
    for name in sorted(environment):
        path = _path(name)
        if not path or path[0] in sections or name.upper() == CONFIG_VARIABLE or _KUBERNETES.fullmatch(name.upper()):
            continue
        found.append((name, _advice(path, sections)))
    return found


def _advice(path: tuple[str, ...], sections: Sequence[str]) -> str:
    section = next((s for s in sections if path[0].startswith(f"{s}_")), None)
    if section is not None:
        rest = path[0].removeprefix(f"{section}_")
        return f"did you mean {variable_for((section, rest, *path[1:]))}? Levels are joined by two underscores"
    near = difflib.get_close_matches(path[0], sections, n=1)
    return f"did you mean {variable_for((near[0], *path[1:]))}?" if near else f"sections are {', '.join(sections)}"


def _path(name: str) -> tuple[str, ...]:
    upper = name.upper()
    return tuple(upper.removeprefix(PREFIX).lower().split(SEPARATOR)) if upper.startswith(PREFIX) else ()


def _value(name: str, text: str) -> Any:
    if text == "null":
        return None
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        where = f" at character {exc.pos}" if isinstance(exc, json.JSONDecodeError) else ""
        # The cause would carry the whole value, which may be a secret.
        raise _unusable(name, f"starts like JSON but cannot be read{where}") from None


def _unusable(name: str, why: str) -> ConfigError:
    return ConfigError(f"environment variable {name}: {why}", hint="correct or unset the variable")


def layered(over: dict[str, Any], under: dict[str, Any]) -> dict[str, Any]:
    """One nested dict of both, `over` wins in each value; nothing is checked."""
    if not over or not under:
        return over or under  # what follows takes longer to begin than all else that is done to read a file
    from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

    class Layers(BaseSettings):
        model_config = SettingsConfigDict(extra="allow")

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """The two, the first first: never the process's own environment, no .env files."""
            return InitSettingsSource(settings_cls, over), InitSettingsSource(settings_cls, under)

    return dict(Layers().model_extra or {})
