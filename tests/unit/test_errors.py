"""Errors go from one process to another."""

from __future__ import annotations

import pickle
import traceback
from uuid import uuid4

import pytest

from sagaz_tiering.errors import (
    CatalogUnproven,
    ColdTierUnavailable,
    MissingDependencyError,
    NotSerializable,
    SagazTieringError,
    SnapshotArchived,
)


@pytest.mark.parametrize(
    "error",
    [
        ColdTierUnavailable("no answer", hint="look"),
        CatalogUnproven("another one", nonce=uuid4()),
        MissingDependencyError("sagaz", "a replay"),
        NotSerializable("context.x", "no"),
        SnapshotArchived(storage_class="GLACIER", snapshot_ids=[uuid4()], how_to_restore="restore it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_comes_out_of_another_process_as_it_was(error: SagazTieringError) -> None:
    """Message, hint and all that it carries, whatever its class is made from."""
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_traceback_says_what_to_do() -> None:
    """As the command line does."""
    said = "".join(traceback.format_exception(ColdTierUnavailable("no answer", hint="look at the network")))
    assert said.endswith("no answer\nhint: look at the network\n")
    assert "hint" not in "".join(traceback.format_exception(SagazTieringError("no")))
