"""Which enum classes may be stored, and under which name."""

from __future__ import annotations

import importlib
import sys
from enum import Enum
from functools import cache
from typing import Final, TypeVar

from sagaz_tiering.snapshot import ReplayStatus, SnapshotStrategy

ENGINE_ENUMS: Final = (
    "sagaz.core.types.SagaStatus",
    "sagaz.core.types.SagaStepStatus",
    "sagaz.core.replay.ReplayStatus",
    "sagaz.core.replay.SnapshotStrategy",
)
"""Enums of the engine, stored without registration. Nothing else is ever imported because data names it."""

_E = TypeVar("_E", bound=type[Enum])
_class_by_name: dict[str, type[Enum]] = {}
_name_by_class: dict[type[Enum], str] = {}


def register_enum(cls: _E) -> _E:
    """Let members of `cls` be stored, by qualified name and value; usable as a decorator.

    Register in every process that reads them: elsewhere a member comes back as its plain value. Raises
    TypeError for anything but an Enum class.
    """
    if not (isinstance(cls, type) and issubclass(cls, Enum)):
        raise TypeError(f"register_enum takes an Enum class, not {cls!r}")
    name = f"{cls.__module__}.{cls.__qualname__}"
    _class_by_name[name] = cls
    _name_by_class[cls] = name
    return cls


def enum_name(cls: type[Enum]) -> str | None:
    """The name that members of `cls` are stored under, or None if they may not be."""
    name = _name_by_class.get(cls)
    if name is not None:
        return name
    for name in ENGINE_ENUMS:
        module, _, attribute = name.rpartition(".")
        # Where a member exists its module is loaded, so looking there is enough.
        if getattr(sys.modules.get(module), attribute, None) is cls:
            return name
    return None


def enum_class(name: str) -> type[Enum] | None:
    """The class of `enum_name`, or None where it is not known or its package is not installed."""
    return _class_by_name.get(name) or (_engine_enum(name) if name in ENGINE_ENUMS else None)


@cache
def _engine_enum(name: str) -> type[Enum] | None:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, Enum) else None


register_enum(SnapshotStrategy)
register_enum(ReplayStatus)
