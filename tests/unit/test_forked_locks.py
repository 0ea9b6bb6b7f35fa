"""Locks on files that are held at the moment of a fork: the child has them open too, and must not keep them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from sagaz_tiering.objects.local.tree import ObjectRecord, ObjectTree
from sagaz_tiering.storage.filesystem.layout import Lock, Locks
from sagaz_tiering.storage_class import StorageClass

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

SAGA = UUID(int=7)


@contextmanager
def child_that_lives() -> Iterator[None]:
    """Forked at the first line of the block that this follows, ended after the block around it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(pid, 0)


@pytest.mark.guarantee("G13")
def test_record_lock_is_free_though_a_child_was_forked_under_it(tmp_path: Path) -> None:
    """Of a filesystem storage."""
    locks = Locks(tmp_path, wait=timedelta(seconds=1))
    held = locks.held(Lock.SAGA, SAGA)
    held.__enter__()
    with child_that_lives():
        held.__exit__(None, None, None)
        with Locks(tmp_path, wait=timedelta(0)).tried(Lock.SAGA, SAGA) as free:
            assert free


@pytest.mark.guarantee("G13")
def test_object_lock_is_free_though_a_child_was_forked_under_it(tmp_path: Path) -> None:
    """Of the local object store."""
    tree = ObjectTree(tmp_path)
    tree.open()
    record = ObjectRecord(size=1, sha256="00" * 32, storage_class=StorageClass.STANDARD, modified_at=0)
    tree.write("a", b"x", record)
    opened = tree.opened("a")
    opened.__enter__().lock()
    with child_that_lives():
        opened.__exit__(None, None, None)
        with tree.opened("a") as found:
            found.lock()
    tree.close()
