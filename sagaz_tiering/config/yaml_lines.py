"""YAML as configuration needs it: every value knows its line, and nothing is guessed.

Plain scalars are text (only an empty one, `~` and `null` are null), so that `no`, `1:30` and `0644` stay what
was written; the models give them their types. Duplicate keys, tags, several documents and values that contain
themselves are refused; anchors, aliases and merge keys (`<<`) work, as long as what they say in full is not too much.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

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
