"""Lua scripts: loaded from their owner's package, run by their digest, sent whole to a server that knows it not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, NamedTuple

import redis.exceptions as driver

_BEHIND: Final = re.compile(r"^-- Behind (\w+)\.lua\.$", re.MULTILINE)


class Script(NamedTuple):
    """A Lua script, and its SHA-1, by which servers that have seen it know it."""

    text: str
    digest: str


@cache
def load_script(package: str, name: str, behind: str | None = None) -> Script:
    """`lua/<name>.lua` of `package`, behind `lua/<behind>.lua` and what its line `-- Behind <another>.lua.` names."""
    folder = files(package).joinpath("lua")
    own = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    in_front = [behind] if behind else []
    in_front += _BEHIND.findall(own)
    text = "\n".join([*(folder.joinpath(f"{each}.lua").read_text(encoding="utf-8") for each in in_front), own])
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


async def run_script(client: Any, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
    """What a script answers; a server that does not know it yet is sent its text."""
    try:
        return await client.evalsha(script.digest, len(keys), *keys, *args)
    except driver.NoScriptError:
        return await client.eval(script.text, len(keys), *keys, *args)
