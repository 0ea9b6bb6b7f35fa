"""Which snapshots a policy means: shell-style patterns over names, status, and outcome and attributes of the saga."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from sagaz_tiering.attributes import NAME_PATTERN, values_of
from sagaz_tiering.config.schema import StrictModel, problem

ANY = ("*",)
UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
"""What neither JSON of PostgreSQL nor UTF-8 can hold, so that no record and no pattern may have it."""
MAX_PATTERN = 1_000
"""Characters; what compares thousands of wildcards takes PostgreSQL minutes."""
_PATTERN_FORM = "write a name or a pattern such as payment-*, or a list of them"


def _patterns(value: object) -> tuple[str, ...]:
    if value is None:
        raise problem(f"is empty; leave the key out to match everything, or {_PATTERN_FORM}")
    given = value if isinstance(value, (list, tuple)) else [value]
    if not given:
        raise problem(f"an empty list matches nothing; leave the key out to match everything, or {_PATTERN_FORM}")
    for pattern in given:
        if not isinstance(pattern, str):
            kind = "a boolean" if isinstance(pattern, bool) else f"a {type(pattern).__name__}"
            raise problem(f"a pattern must be text, not {kind}; put it in quotes, or {_PATTERN_FORM}")
        if not pattern:
            raise problem(
                f"an empty pattern matches nothing; leave the key out to match everything, or {_PATTERN_FORM}"
            )
        if len(pattern) > MAX_PATTERN:
            raise problem(f"a pattern of {len(pattern):,} characters is too long; * stands for any number of them")
        if UNWRITABLE.search(pattern):
            raise problem(f"{pattern!r:.80} has NUL or a lone surrogate, not UTF-8 text; ? stands for one")
    return tuple(given)


Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns)]
"""One or more shell-style patterns (`*`, `?`, `[seq]`), case-sensitive; one text stands for a list of one."""


RUNNING = "running"
"""The outcome of a saga that has not ended, or of which no end was recorded."""

UNDER_WAY = frozenset({"pending", "executing", "compensating", "forward_recovery"})


def outcome_of(status: str) -> str:
    """The outcome of a saga whose newest snapshot has that status: the status itself, or `running`."""
    return RUNNING if status in UNDER_WAY else status


def _outcomes(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if outcome_of(pattern) != pattern:
            raise problem(f"{pattern} is no outcome; a saga whose newest snapshot says so is `{RUNNING}`")
    return patterns


Outcomes = Annotated[Patterns, AfterValidator(_outcomes)]
"""Patterns of outcomes."""


def _by_attribute(value: object) -> Mapping[object, object]:
    if not isinstance(value, Mapping):
        raise problem("must be a mapping of attributes and patterns, such as {tenant: acme, region: [eu-*, us-*]}")
    for name in value:
        if not isinstance(name, str) or not re.match(NAME_PATTERN, name):
            raise problem(f"{name!r:.80} is no name of an attribute: lower-case letters, digits and _, a letter first")
    return value


ByAttribute = Annotated[dict[str, Patterns], BeforeValidator(_by_attribute)]
"""Patterns by the name of an attribute."""


class Match(StrictModel):
    """A snapshot matches when its names, and the outcome of its saga, each match one of the patterns given for it.

    So must some value of each attribute that is named.
    """

    saga_name: Patterns = ANY
    """Name of the saga, such as `payment-*`."""
    step_name: Patterns = ANY
    """Name of the step."""
    status: Patterns = ANY
    """Status of the saga at that step, of each snapshot by itself; to rule whole sagas by how they end: `outcome`."""
    outcome: Outcomes = ANY
    """How the saga ends, for all of its snapshots: the status of its newest one, such as `completed`, `failed` or
    `rolled_back`; `running` while that is `pending`, `executing`, `compensating` or `forward_recovery`."""
    attributes: ByAttribute = Field(default={})
    """By attribute, such as `{tenant: acme, region: eu-*}`: values that the newest snapshot of the saga has, for all of
    its snapshots; what has no value of an attribute does not match it. Each is one of `attributes`, and not hashed."""

    def __hash__(self) -> int:
        return hash((self.saga_name, self.step_name, self.status, self.outcome, *sorted(self.attributes.items())))

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without attributes as before there were any, so that versions before can read it."""
        found: dict[str, Any] = handler(self)
        if not self.attributes:
            found.pop("attributes", None)
        return found

    @property
    def text(self) -> str:
        """`saga_name payment-*, outcome failed or rolled_back, attributes.tenant acme`; of nothing: `everything`."""
        named = [name for name, each in self.by_name.items() if each != ANY or "." in name]
        return ", ".join(f"{name} {' or '.join(self.by_name[name])}" for name in named) or "everything"

    @property
    def by_name(self) -> dict[str, tuple[str, ...]]:
        """The patterns by what they are compared with, `attributes.NAME` for an attribute."""
        found = {name: getattr(self, name) for name in type(self).model_fields if name != "attributes"}
        return found | {f"attributes.{name}": each for name, each in self.attributes.items()}

    @property
    def patterns(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(pattern for each in self.by_name.values() for pattern in each)

    @property
    def is_catch_all(self) -> bool:
        """Whether every snapshot matches."""
        return self.covers(Match())

    def covers(self, other: Match) -> bool:
        """Whether all that `other` matches is surely matched too. False may also mean "not provable"."""
        theirs = other.by_name
        return all(name in theirs and patterns_cover(each, theirs[name]) for name, each in self.by_name.items())


def patterns_cover(general: Sequence[str], special: Sequence[str]) -> bool:
    """Whether each pattern of `special` is surely included in one of `general`."""
    return all(any(_covers(wide, narrow) for wide in general) for narrow in special)


def _covers(wide: str, narrow: str) -> bool:
    if wide == narrow:
        return True
    if not set(narrow) & set("*?["):
        return fnmatchcase(narrow, wide)
    # Without ? and [ in `wide`, and without [ in `narrow`, each wildcard of `narrow`, read as a plain
    # character, can only fall inside a * of `wide`, where it may stand for anything.
    return not set(wide) & set("?[") and "[" not in narrow and fnmatchcase(narrow, wide)


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A function that tells whether a name matches one of the patterns; case-sensitive."""
    if any(not pattern.strip("*") for pattern in patterns):
        return lambda _name: True
    expressions = [re.compile(translate(pattern)).match for pattern in patterns]
    return lambda name: any(match(name) for match in expressions)


def attributes_matcher(by_attribute: Mapping[str, Sequence[str]]) -> Callable[[str], bool]:
    """The same of a column of attributes: some value of each that is named must match."""
    matchers = [(name, matcher(patterns)) for name, patterns in by_attribute.items()]
    if not matchers:
        return lambda _column: True

    def matches(column: str) -> bool:
        values = values_of(column)
        return all(any(map(match, values.get(name, ()))) for name, match in matchers)

    return matches
