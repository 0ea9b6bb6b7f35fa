"""The OpenAPI document of `/api/v1`, made of the views and actions that there are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from sagaz_tiering.console.actions import ACTIONS, COMPARE_PARAMETERS, EXPORT
from sagaz_tiering.console.routes import Parameter, path_names
from sagaz_tiering.console.views import VIEWS

API: Final = "/api/v1"
_PROBLEMS: Final = {
    "400": "A parameter is missing or wrong.",
    "401": "A token is needed.",
    "403": "The operator's token is needed.",
    "404": "Nothing of that is there.",
    "409": "Something forbids it, such as a legal hold.",
    "429": "Too many wrong tokens came from there, or another export is under way.",
    "503": "A server that is needed does not answer.",
}


@cache
def openapi() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, Any] = {}
    for view in VIEWS:
        path = "/overview" if view.path == "/" else view.path
        names = path_names(view.path)
        paths.setdefault(path, {})["get"] = {
            "summary": view.about,
            "parameters": [_parameter(each, "path" if each.name in names else "query") for each in view.parameters],
            "responses": _responses(),
        }
    for action in ACTIONS:
        paths.setdefault(action.path, {})["post"] = _post(action.about, action.parameters, path_names(action.path))
    paths["/plan"]["post"] = _post(
        "What other policies would do instead; saves nothing.", COMPARE_PARAMETERS, frozenset()
    )
    export = _post(EXPORT.about, EXPORT.parameters, path_names(EXPORT.path))
    export["responses"]["200"]["content"] = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    paths[EXPORT.path] = {"post": export}
    return {
        "openapi": "3.1.0",
        "info": {"title": "sagaz-tiering console", "version": "1"},
        "servers": [{"url": API}],
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Problem": {
                    "type": "object",
                    "required": ["problem", "hint"],
                    "properties": {"problem": {"type": "string"}, "hint": {"type": "string"}},
                }
            },
        },
        "paths": paths,
    }


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "required": parameter.required,
        "description": parameter.about,
        "schema": parameter.schema(),
    }


def _post(about: str, parameters: Iterable[Parameter], in_path: frozenset[str]) -> dict[str, Any]:
    fields = [each for each in parameters if each.name not in in_path]
    body = {
        "type": "object",
        "properties": {each.name: {**each.schema(), "description": each.about} for each in fields},
        "required": [each.name for each in fields if each.required],
    }
    return {
        "summary": about,
        "parameters": [_parameter(each, "path") for each in parameters if each.name in in_path],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _responses(),
    }


def _responses() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "200": {"description": "What was asked for.", "content": {"application/json": {"schema": {"type": "object"}}}},
        **{status: {"description": about, "content": content} for status, about in _PROBLEMS.items()},
    }
