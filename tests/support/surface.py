"""What strangers hold on to, as text: public names, errors, help texts, metrics, events, settings, migrations.

Nothing here depends on which module a thing lives in, so that moves change none of it.
"""

from __future__ import annotations

import ast
import enum
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import typer

import sagaz_tiering
from sagaz_tiering import errors, metrics, storage
from sagaz_tiering.cli.app import make_app
from sagaz_tiering.config.model import TieringConfig
from tools.reference import configuration_reference

PACKAGE = Path(sagaz_tiering.__file__).parent
HELP_WIDTH = 100
_LEVELS = ("debug", "info", "warning", "error", "exception")


def public_names() -> str:
    """Every name of the root and of `storage`, with the signatures of what can be called."""
    return _json({package.__name__: _names(package) for package in (sagaz_tiering, storage)})


def error_tree() -> str:
    """Every error class: what it is a kind of, its exit code, whether a retry helps, how it is made."""
    found = {
        name: {
            "bases": [base.__name__ for base in each.__bases__],
            "exit_code": each.exit_code,
            "permanent": each.permanent,
            "hint": each.hint if isinstance(each.hint, str) else "(made of the error)",
            "init": _signature(each.__init__),
        }
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.SagazTieringError)
    }
    return _json(found)


def help_texts() -> str:
    """`--help` of the program and of every command, as it is shown on a terminal of HELP_WIDTH columns."""
    return "\n".join(_help(typer.main.get_command(make_app()), "sagaz-tiering", None))


def commands_with(option: str) -> list[str]:
    """The commands that take an option, by all of their words."""
    return list(_taking(option, typer.main.get_command(make_app()), ()))


def metric_names() -> str:
    """Every metric: its type, its labels, what it says."""
    found = {
        collector._name: {
            "type": collector._type,
            "labels": list(collector._labelnames),
            "help": collector._documentation,
        }
        for collector in metrics.REGISTRY._collector_to_names
    }
    return _json(found)


def log_events() -> str:
    """Every event that is logged by a text of its own, with the levels and the fields that are written there."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if _is_log_call(node):
                assert isinstance(node, ast.Call)
                assert isinstance(node.func, ast.Attribute)
                event = found.setdefault(ast.literal_eval(node.args[0]), {"levels": set(), "fields": set()})
                event["levels"].add(node.func.attr)
                event["fields"] |= {keyword.arg or "**" for keyword in node.keywords}
    return _json({name: {key: sorted(values) for key, values in of.items()} for name, of in found.items()})


def settings_text() -> str:
    """The generated reference, without the line that says how it is made."""
    return "\n".join(line for line in configuration_reference().splitlines() if not line.startswith("<!--")) + "\n"


def settings_schema() -> str:
    """What a configuration file may hold, as JSON Schema; which class describes a section is nobody's concern."""
    schema = TieringConfig.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = definitions[node["$ref"].rpartition("/")[2]]
            return inlined({**target, **{key: value for key, value in node.items() if key != "$ref"}})
        texts = ("title", "description")
        return {key: inlined(value) for key, value in node.items() if key not in texts or not isinstance(value, str)}

    return _json(inlined(schema))


def migrations() -> str:
    """Every migration with a digest of its text: one that was released is never edited."""
    found = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("[0-9][0-9][0-9][0-9]_*.sql")}
    return _json({name: hashlib.sha256(text.encode()).hexdigest() for name, text in found.items()})


NETS: dict[str, Callable[[], str]] = {
    "names.json": public_names,
    "errors.json": error_tree,
    "help.txt": help_texts,
    "metrics.json": metric_names,
    "events.json": log_events,
    "settings.md": settings_text,
    "settings-schema.json": settings_schema,
    "migrations.json": migrations,
}
"""Files of `tests/nets`, and what each must hold."""


def keys_of(document: Any) -> Any:
    """The keys of a JSON document; of a list those of all its items, of anything else what kind it is."""
    if isinstance(document, dict):
        return {key: keys_of(value) for key, value in sorted(document.items())}
    if isinstance(document, list):
        merged: Any = None
        for each in document:
            merged = _merged(merged, keys_of(each))
        return [] if merged is None else [merged]
    return {bool: "bool", int: "number", float: "number", str: "text"}.get(type(document))


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merged(one.get(key), other.get(key)) for key in sorted({*one, *other})}
    return other if one is None else one


def _names(package: Any) -> dict[str, Any]:
    return {name: _described(getattr(package, name)) for name in sorted(package.__all__)}


def _described(thing: Any) -> Any:
    if inspect.ismodule(thing):
        return "module"
    if not isinstance(thing, type):
        return _signature(thing)
    if issubclass(thing, enum.Enum):
        return {member.name: member.value for member in thing}
    found: dict[str, Any] = {
        "bases": [base.__name__ for base in thing.__mro__[1:-1] if base.__name__ in sagaz_tiering.__all__]
    }
    if not hasattr(thing, "from_config"):  # else nobody else makes it of its parts
        found["init"] = _signature(thing.__init__)
    for name, member in inspect.getmembers_static(thing):
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            found[name] = "property"
        elif isinstance(member, (staticmethod, classmethod)):
            found[name] = f"{type(member).__name__} {_signature(member.__func__)}"
        elif inspect.isfunction(member):
            found[name] = ("async " if inspect.iscoroutinefunction(member) else "") + _signature(member)
        else:
            found[name] = "attribute"
    return found


def _signature(thing: Any) -> str:
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):
        return "?"


def _help(command: Any, path: str, parent: click.Context | None) -> Iterator[str]:
    context = command.make_context(path, [], parent=parent, resilient_parsing=True)
    context.terminal_width = context.max_content_width = HELP_WIDTH
    yield f"$ {path} --help\n{command.get_help(context)}\n"
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _help(child, f"{path} {name}", None)


def _taking(option: str, command: Any, words: tuple[str, ...]) -> Iterator[str]:
    if any(option in each.opts for each in command.params):
        yield " ".join(words)
    for name, child in getattr(command, "commands", {}).items():
        yield from _taking(option, child, (*words, name))


def _is_log_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _LEVELS
        and isinstance(node.func.value, (ast.Name, ast.Attribute))
        and "log" in ast.unparse(node.func.value)
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )


def _json(found: Any) -> str:
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
