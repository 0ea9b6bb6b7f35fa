"""The section `attributes`: what sagas can be found and ruled by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from sagaz_tiering.attributes import MIN_HASH_KEY_BYTES, NAME_PATTERN
from sagaz_tiering.config.patterns import ANY, Patterns
from sagaz_tiering.config.policy import Policy
from sagaz_tiering.config.schema import Location, StrictModel, problem


def _dotted(path: str) -> str:
    if not all(path.split(".")):
        raise problem("needs keys joined by single dots, such as order.id")
    return path


class AttributeSettings(StrictModel):
    """A value that sagas can be found by, and ruled by (`match: {attributes: ...}`)."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Unique name: lower-case letters, digits and `_`, a letter first, at most 63."""
    path: Annotated[str, AfterValidator(_dotted)]
    """Where the value is in a context: keys joined by dots, such as `order.id`; of a list each element counts."""
    saga_name: Patterns = ANY
    """Sagas that have it."""
    hashed: bool = False
    """Keep only a keyed hash (`attribute_hash_key`), so that neither catalog nor bucket shows the value."""


def attribute_problems(
    attributes: Sequence[AttributeSettings], hash_key: SecretStr | None, policies: Sequence[Policy]
) -> Iterator[tuple[Location, str]]:
    """What cannot be of these together, each with where it is."""
    first: dict[str, int] = {}
    for i, attribute in enumerate(attributes):
        before = first.setdefault(attribute.name, i)
        if before != i:
            yield (
                ("attributes", i, "name"),
                f"{attribute.name!r} is already the name of attributes[{before}]; choose another, or let "
                "saga_name be a list",
            )
        if attribute.hashed and hash_key is None:
            yield ("attributes", i, "hashed"), "needs attribute_hash_key, a secret of at least 32 bytes"
    if hash_key is not None and len(hash_key.get_secret_value().encode()) < MIN_HASH_KEY_BYTES:
        yield ("attribute_hash_key",), f"is shorter than {MIN_HASH_KEY_BYTES} bytes; `openssl rand -hex 32` makes one"
    for i, policy in enumerate(policies):
        for name in policy.match.attributes:
            why = rule_problem(name, attributes)
            if why is not None:
                yield ("policies", i, "match", "attributes", name), why


def rule_problem(name: str, attributes: Sequence[AttributeSettings]) -> str | None:
    """Why no rule, hold or request can look at an attribute; None: one can."""
    found = next((attribute for attribute in attributes if attribute.name == name), None)
    if found is None:
        known = ", ".join(attribute.name for attribute in attributes) or "none"
        return f"no attribute {name!r} is defined; add it to the section attributes (there: {known})"
    if found.hashed:
        return f"attribute {name!r} is hashed, so no pattern can look at its values; define one that is not"
    return None
