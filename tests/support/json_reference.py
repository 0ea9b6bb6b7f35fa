"""docs/reference/json.md: what each command says with `--json`, written from `tests/nets/documents.json`."""

from __future__ import annotations

import json
from typing import Any

_HEAD = """<!-- written by: python tests/test_public_surface.py -->
# What commands say with `--json`

One document on stdout, with these keys; a list shows the keys of all of its items, `null` is what was not there in the
recorded call. An error is `{"error", "type", "hint", "exit_code"}`. Lists have `next`, the `--cursor` of the page
behind, or null. Keys are added, and never change their meaning without a word in the changelog. Not here are `init`,
which tells what is on its machine, `demo` and `torture`; `run` logs as JSON lines.
"""
_GROUPS = ("catalog", "export", "keys", "policy", "quarantine", "replay")
NOT_SHOWN = {"demo", "init", "run", "torture"}


def json_reference(documents: str) -> str:
    """The page, of the recorded keys: each command once, in the order of its name."""
    shown: dict[str, Any] = {}
    for words, found in json.loads(documents).items():
        command, keys = _command(words), found["keys"]
        if keys and not ("error" in keys and "type" in keys):
            shown[command] = _merged(shown.get(command), keys)
    parts = [f"## `{name}`\n\n```json\n{json.dumps(keys, indent=1)}\n```\n" for name, keys in sorted(shown.items())]
    return "\n".join([_HEAD, *parts])


def _command(words: str) -> str:
    """The command and its options, without its arguments and the number of the call."""
    _, *parts = words.split()
    names = [part for part in parts if part.islower() and not part.startswith(("file:", "--"))]
    return " ".join(names[: 2 if names[0] in _GROUPS else 1])


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merged(one.get(key), other.get(key)) for key in sorted({*one, *other})}
    if isinstance(one, list) and isinstance(other, list) and one and other:
        return [_merged(one[0], other[0])]
    return other or one
