"""Which classes may be stored, and how: members of enums by name and value, dataclasses and pydantic models by their
fields."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache, cached_property
from typing import Any, Final, TypeVar
from uuid import UUID

from sagaz_tiering.snapshot import ReplayStatus, SnapshotStrategy

_C = TypeVar("_C", bound=type)
_BUILT_IN: Final = (BaseException, Enum, str, bytes, bytearray, int, float, complex, list, tuple, dict, set, frozenset)
_SET, _EXTRA, _PRIVATE = "_set", "_extra", "_private"  # of models; no field of one starts with an underscore
_HASHED: Final = frozenset({str, int, float, bool, type(None), Decimal, UUID, date, datetime, time, timedelta})
_STATE: Final = frozenset({_SET, _EXTRA, _PRIVATE})

_class_by_name: dict[str, type] = {}
_name_by_class: dict[type, str] = {}


class Unfit(Exception):
    """An object of a registered class that would not come back equal from its fields."""


class StoredObject(dict[str, Any]):
    """The fields of an object, by name; `type_name` is that of its class.

    What is read where the class is not registered, or has other fields by now; it is stored again as it was.
    """

    __slots__ = ("type_name",)

    def __init__(self, type_name: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.type_name = type_name

    def __eq__(self, other: object) -> bool:
        theirs = other if type(other) is StoredObject else stored_object(other)
        return theirs is not None and self.type_name == theirs.type_name and dict.__eq__(self, theirs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]  # one may have been the key of a dict
        # Of all fields there is at least the name; what may be equal to something that has no hash has no part in it.
        simple = ((name, value) for name, value in self.items() if type(value) in _HASHED)
        return hash((self.type_name, *sorted(self), frozenset(simple)))

    def __repr__(self) -> str:
        return f"{self.type_name}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredObject, (self.type_name, dict(self))


def register_type(cls: _C) -> _C:
    """Let objects of this dataclass or pydantic model be stored, by the class's qualified name; usable as a decorator.

    Of exactly this class: subclasses are registered themselves. What is read is made of the stored fields, without
    `__init__`, `__post_init__` or validation, so that it is what was stored; fields that the class got since have their
    defaults. Register in every process that reads them: elsewhere, and where the class has other fields by now, a
    `StoredObject` (a dict of the fields) comes back. Raises TypeError for any other class.
    """
    if not isinstance(cls, type) or not (_is_dataclass(cls) or _is_model(cls)):
        raise TypeError(f"register_type takes a dataclass or a pydantic model, not {cls!r}; register_enum takes enums")
    if issubclass(cls, _BUILT_IN):
        raise TypeError(f"register_type cannot take {cls!r}: it is more than its fields")
    name = f"{cls.__module__}.{cls.__qualname__}"
    _class_by_name[name] = cls
    _name_by_class[cls] = name
    return cls


def stored_object(value: Any) -> StoredObject | None:
    """The fields of an object of a registered class, in a new dict; None for anything else. Raises Unfit."""
    cls = type(value)
    if cls is StoredObject:
        return StoredObject(value.type_name, value)
    name = _name_by_class.get(cls)
    if name is None:
        return None
    return StoredObject(name, _model_fields(value) if _is_model(cls) else _dataclass_fields(value))


def fitting_object(value: Any) -> StoredObject | None:
    """The same; None also for what is unfit, which the writing tells."""
    try:
        return stored_object(value)
    except Unfit:
        return None


def revived_object(name: str, fields: dict[str, Any]) -> Any:
    """The object of `stored_object`."""
    cls = _class_by_name.get(name)
    made = None if cls is None else _revived_model(cls, fields) if _is_model(cls) else _revived_dataclass(cls, fields)
    return StoredObject(name, fields) if made is None else made


def _is_dataclass(cls: type) -> bool:
    return "__dataclass_fields__" in vars(cls)  # of its own, not of a base


def _is_model(cls: type) -> bool:
    return hasattr(cls, "__pydantic_fields__") and hasattr(cls, "model_construct")


def _dataclass_fields(value: Any) -> dict[str, Any]:
    cls, names = type(value), [field.name for field in dataclasses.fields(value)]
    for name in [*getattr(value, "__dict__", ()), *_slots(cls)]:
        if name not in names and hasattr(value, name) and not _is_cached(cls, name):
            raise Unfit(f"has an attribute {name!r} that is no field of it")
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise Unfit(f"has no value for its field {missing[0]!r}")
    return {name: getattr(value, name) for name in names}


def _slots(cls: type) -> list[str]:
    found: list[str] = []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else slots
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _is_cached(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), cached_property)


def _revived_dataclass(cls: type, stored: dict[str, Any]) -> Any:
    fields: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(cls)}
    if not stored.keys() <= fields.keys():
        return None
    made: Any = object.__new__(cls)
    put = object.__setattr__
    for name, field in fields.items():
        if name in stored:
            put(made, name, stored[name])
        elif field.default is not dataclasses.MISSING:
            put(made, name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            put(made, name, field.default_factory())
        else:
            return None
    return made


def _model_fields(value: Any) -> dict[str, Any]:
    names = type(value).__pydantic_fields__
    fields = {name: value.__dict__[name] for name in names if name in value.__dict__}
    extra, private = value.__pydantic_extra__, value.__pydantic_private__
    if value.__pydantic_fields_set__ != {*fields, *(extra or ())}:
        fields[_SET] = sorted(value.__pydantic_fields_set__)
    if extra:
        fields[_EXTRA] = dict(extra)
    if private is not None:
        # pydantic marks what was never set with an object of its own.
        fields[_PRIVATE] = {n: v for n, v in private.items() if type(v).__name__ != "PydanticUndefinedType"}
    return fields


def _revived_model(cls: Any, stored: dict[str, Any]) -> Any:
    fields = cls.__pydantic_fields__
    values = {name: value for name, value in stored.items() if name not in _STATE}
    if not values.keys() <= fields.keys() or any(type(name) is not str for name in stored.get(_SET, ())):
        return None
    extra = stored.get(_EXTRA)
    given = set(stored[_SET]) if _SET in stored else {*values, *(extra or ())}
    for name, info in fields.items():
        if name not in values:
            if info.is_required():
                return None
            values[name] = info.get_default(call_default_factory=True, validated_data=dict(values))
    made = cls.__new__(cls)
    made.__setstate__(
        {
            "__dict__": values,
            "__pydantic_fields_set__": given,
            "__pydantic_extra__": extra if extra or cls.model_config.get("extra") != "allow" else {},
            "__pydantic_private__": stored.get(_PRIVATE),
        }
    )
    return made


ENGINE_ENUMS: Final = (
    "sagaz.core.types.SagaStatus",
    "sagaz.core.types.SagaStepStatus",
    "sagaz.core.replay.ReplayStatus",
    "sagaz.core.replay.SnapshotStrategy",
)
"""Enums of the engine, stored without registration. Nothing else is ever imported because data names it."""

_E = TypeVar("_E", bound=type[Enum])
_enum_by_name: dict[str, type[Enum]] = {}
_name_by_enum: dict[type[Enum], str] = {}


def register_enum(cls: _E) -> _E:
    """Let members of `cls` be stored, by qualified name and value; usable as a decorator.

    Register in every process that reads them: elsewhere a member comes back as its plain value. Raises
    TypeError for anything but an Enum class.
    """
    if not (isinstance(cls, type) and issubclass(cls, Enum)):
        raise TypeError(f"register_enum takes an Enum class, not {cls!r}")
    name = f"{cls.__module__}.{cls.__qualname__}"
    _enum_by_name[name] = cls
    _name_by_enum[cls] = name
    return cls


def enum_name(cls: type[Enum]) -> str | None:
    """The name that members of `cls` are stored under, or None if they may not be."""
    name = _name_by_enum.get(cls)
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
    return _enum_by_name.get(name) or (_engine_enum(name) if name in ENGINE_ENUMS else None)


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
