"""Every storage class has exactly the methods of the contract, under the names that it is found by."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator

import pytest

import sagaz_tiering
import sagaz_tiering.storage
from sagaz_tiering.storage.base import SnapshotSource, SnapshotStorage

STANDALONE = (
    "InMemorySnapshotStorage",
    "FilesystemSnapshotStorage",
    "RedisSnapshotStorage",
    "PostgreSQLSnapshotStorage",
    "S3SnapshotStorage",
)
ALL = (*STANDALONE, "TieredSnapshotStorage")
METHODS = sorted(
    {
        name
        for protocol in (SnapshotSource, SnapshotStorage)
        for name, value in vars(protocol).items()
        if inspect.isfunction(value) and (not name.startswith("_") or name in ("__aenter__", "__aexit__"))
    }
)


def shape(method: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults of its parameters; extra ones that nobody need give are left out."""
    parameters = inspect.signature(method).parameters.values()  # type: ignore[arg-type]  # a function
    hidden = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty and p.name != "after"]
    return [("*" if p.kind is p.VAR_POSITIONAL else p.name, p.kind, p.default) for p in parameters if p not in hidden]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", METHODS)
def test_method_is_as_the_contract_says(name: str, method: str) -> None:
    """The same parameters by name, kind and default; asynchronous where the contract is."""
    ours, theirs = getattr(getattr(sagaz_tiering, name), method), getattr(SnapshotStorage, method)
    assert shape(ours) == shape(theirs)
    returns = inspect.signature(theirs, eval_str=True).return_annotation
    if getattr(returns, "__origin__", None) is AsyncIterator:
        assert inspect.isasyncgenfunction(ours)
    else:
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
    assert inspect.getdoc(ours) or method.startswith("__")


def test_the_contract_has_the_methods_of_the_engine() -> None:
    """The ten that sagaz calls, and what operating a storage needs."""
    assert set(METHODS) == {
        *("save_snapshot", "get_snapshot", "get_latest_snapshot", "get_snapshot_at_time", "list_snapshots"),
        *("delete_snapshot", "delete_expired_snapshots", "save_replay_log", "get_replay_log", "list_replays"),
        *("cleanup_saga", "health_check", "get_storage_info", "close", "__aenter__", "__aexit__"),
        *("saga_ids", "iter_snapshots", "iter_replay_logs"),
    }


async def test_storage_is_one_for_isinstance(storage: SnapshotStorage) -> None:
    """Both protocols know it at run time, and `async with` gives the storage itself."""
    assert isinstance(storage, SnapshotStorage)
    assert isinstance(storage, SnapshotSource)
    async with storage as entered:
        assert entered is storage


@pytest.mark.parametrize("name", STANDALONE)
def test_standalone_storage_has_two_homes(name: str) -> None:
    """`sagaz_tiering` and `sagaz_tiering.storage` give the same class, named in both `__all__`."""
    assert getattr(sagaz_tiering, name) is getattr(sagaz_tiering.storage, name)
    assert name in sagaz_tiering.__all__
    assert name in sagaz_tiering.storage.__all__


@pytest.mark.parametrize("name", STANDALONE)
def test_standalone_storage_takes_a_clock_by_name_only(name: str) -> None:
    """Optional, so that nobody need know of it."""
    clock = inspect.signature(getattr(sagaz_tiering, name)).parameters["clock"]
    assert (clock.kind, clock.default) == (clock.KEYWORD_ONLY, None)
