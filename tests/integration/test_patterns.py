"""Patterns mean in PostgreSQL what they mean in Python, and none of them makes a question about holds fail."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError
from support.tiers import Product

from sagaz_tiering.attributes import token
from sagaz_tiering.catalog.patterns import attributes_expression, expression
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.drivers.postgresql.queries import to_column
from sagaz_tiering.errors import ConfigError

ODD = (
    *("[z-a]", "[!z-a]", "[a-b-c]", "[!]", "[!]]", "[]", "[]]", "[]-a]", "[a-]", "[-a]", "[--a]", "[^a]"),
    *("[\\\\]", "[\\d]", "[", "[[:foo:]]", "[[:alpha:]]", "[[.a.]]", "[[=a=]]", "[[.zz.]]", "[a[:]", "[[]", "(?=x)"),
    *("***=x", "a{2}", "a\\b", "\\u0041", "[\x01-\U0010ffff]", "[!\x01-\U0010ffff]", "[!-~]", "[[-^]", "[!a-z]*"),
    *("?", "??", "[\\\\-a]", "[\x01-\x1f]", "*\\*", "[A-z]", "[!A-z]"),
)
PIECES = (
    "a",
    "b",
    "z",
    "-",
    "[",
    "]",
    "!",
    "^",
    "\\",
    ":",
    ".",
    "=",
    "*",
    "?",
    "é",
    "\n",
    "\x1f",
    "(",
    "|",
    "$",
    "{",
    "1",
)
TEXT = (*"abz-[]!^\\:.=é\n\x1f(|${1", "\x00", "\ud800", "\U0001f600", "\x7f")


SECTIONS: dict[str, Any] = {"attributes": [{"name": "tenant", "path": "tenant"}]}


def of_name(pattern: str) -> str:
    return expression([pattern, "never"]) or ""


def of_value(pattern: str) -> str:
    return attributes_expression({"tenant": [pattern]}) or ""


def value_column(text: str) -> str:
    """Between others."""
    return to_column("\x1f".join(("a=x", token("tenant", text), "z=y")))


@pytest.mark.parametrize(("made", "column"), [(of_name, to_column), (of_value, value_column)])
async def test_pattern_matches_what_it_matches_in_python(
    shop: Product, made: Callable[[str], str], column: Callable[[str], str]
) -> None:
    """Odd ones and random ones, over random texts; what is written as an escape a `*` may take in part."""
    draw = Random(5)
    patterns = [*ODD, *("".join(draw.choices(PIECES, k=draw.randrange(1, 8))) for _ in range(700))]
    asked = []
    for pattern in patterns:
        near = pattern.replace("*", "a").replace("?", draw.choice(TEXT))
        texts = ["".join(draw.choices(TEXT, k=draw.randrange(0 if made is of_name else 1, 4))) for _ in range(12)]
        asked += [
            (pattern, text) for text in (*TEXT, *texts, near, *(near[i : i + 1] for i in range(len(near)))) if text
        ]
    rows = await shop.runtime.db.fetch(
        "SELECT t ~ re AS matches FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (t, re, n) ORDER BY n",
        [column(text) for _, text in asked],
        [made(pattern) for pattern, _ in asked],
    )
    wrong = []
    for (pattern, text), row in zip(asked, rows, strict=True):
        wanted = fnmatchcase(text, pattern)
        may_be_more = "*" in pattern and column(text) != column("") + text and "\\" in column(text)
        if row["matches"] != wanted and not (may_be_more and row["matches"]):
            wrong.append((pattern, text, wanted))
    assert not wrong, wrong[:20]
    assert sum(row["matches"] for row in rows) > 500


async def test_no_pattern_of_a_hold_makes_other_questions_fail(shop: Product) -> None:
    """Whatever is accepted can be looked for; what PostgreSQL cannot take is refused as the hold is placed."""
    for pattern in ODD:
        for match in (Match(saga_name=pattern), Match(outcome=pattern), Match(attributes={"tenant": pattern})):
            await shop.storage.holder.hold(match, reason="a test", who="a test")
    for pattern in ("?" * 1_001, ["x", "*" * 2_000]):
        with pytest.raises(ValidationError, match="too long"):
            Match(outcome=pattern)
        with pytest.raises(ConfigError, match=r"more than 1,000 characters"):
            await shop.storage.find(saga_name=pattern)
    with pytest.raises(ConfigError, match="no hold can have patterns of"):
        await shop.storage.holder.hold(Match(saga_name=["x" * 900] * 12), reason="a test", who="a test")
    assert len(await shop.runtime.catalog.holds.in_force()) == 3 * len(ODD)
    await shop.run("expire")
    await shop.storage.find(held=True)
    await shop.runtime.catalog.holds.matched(Match(saga_name=ODD), 10)
