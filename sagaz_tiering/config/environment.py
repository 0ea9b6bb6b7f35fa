"""Settings from an environment: `SAGAZ_TIERING_TIERS__HOT__URL` is `tiers.hot.url`, and wins over the file.

A value that starts with `{` or `[` is JSON, `null` is null, an empty variable counts as unset. A list (policies,
attributes) can only be replaced as a whole.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sagaz_tiering.config import CONFIG_VARIABLE
from sagaz_tiering.config.schema import Location
from sagaz_tiering.errors import ConfigError

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
    for name, path, text in sorted(_settings(environment, sections), key=lambda each: each[1]):
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
        target[path[-1]] = _value(name, text)
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


def _settings(environment: Mapping[str, str], sections: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    for name, text in environment.items():
        path = _path(name)
        if path and path[0] in sections and text:
            yield name, path, text


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


def layered(*layers: dict[str, Any]) -> dict[str, Any]:
    """One nested dict of several, the first wins in each value; nothing is checked."""
    said = [layer for layer in layers if layer]
    if len(said) < 2:
        return dict(*said)  # what follows takes longer to begin than all else that is done to read a file
    from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

    class Layers(BaseSettings):
        model_config = SettingsConfigDict(extra="allow")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """What was passed in, the first first: never the process's own environment, no .env files."""
            return tuple(InitSettingsSource(settings_cls, layer) for layer in init_settings()["layers"])

    return dict(Layers(layers=layers).model_extra or {})
