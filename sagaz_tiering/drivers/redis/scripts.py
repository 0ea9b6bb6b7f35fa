"""Lua scripts: loaded from their owner's package, run by their digest, sent whole to a server that knows it not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

import redis.exceptions as driver


class Script(NamedTuple):
    """A Lua script, and its SHA-1, by which servers that have seen it know it."""

    text: str
    digest: str


@cache
def load_script(package: str, name: str, *, behind: str | None = None) -> Script:
    """`lua/<name>.lua` of `package`, with `lua/<behind>.lua` in front of it."""
    folder = files(package).joinpath("lua")
    names = [name] if behind is None else [behind, name]
    text = "\n".join(folder.joinpath(f"{each}.lua").read_text(encoding="utf-8") for each in names)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


async def run_script(client: Any, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
    """What a script answers; a server that does not know it yet is sent its text."""
    try:
        return await client.evalsha(script.digest, len(keys), *keys, *args)
    except driver.NoScriptError:
        return await client.eval(script.text, len(keys), *keys, *args)
