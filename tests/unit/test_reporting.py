"""What a storage tells logs and metrics of saves and reads that fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import structlog
from support.snapshots import save_failures

from sagaz_tiering.errors import CorruptRecord, HotTierUnavailable, InvalidSnapshot, UnexpectedFailure
from sagaz_tiering.logs import Repeated
from sagaz_tiering.storage import reporting
from sagaz_tiering.storage.reporting import measured_read, reported_save


@pytest.fixture(autouse=True)
def _told_anew(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    structlog.reset_defaults()
    reporting._save_outages.clear()
    reporting._read_outages.clear()
    caplog.set_level(logging.INFO, logger="sagaz_tiering")
    yield
    reporting._save_outages.clear()
    reporting._read_outages.clear()


def test_save_that_fails_in_an_unforeseen_way_is_typed_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A closed loop, a driver's own error: the engine swallows it, so the log and the metric must have it."""
    before = save_failures("UnexpectedFailure")
    with pytest.raises(UnexpectedFailure, match="Event loop is closed") as told, reported_save(object(), "redis"):
        raise RuntimeError("Event loop is closed")
    assert isinstance(told.value.__cause__, RuntimeError)
    assert save_failures("UnexpectedFailure") == before + 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("snapshot.save_failed storage=redis")
    assert "hint=" in record.getMessage()


def test_saves_of_an_outage_are_counted_each_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when it begins and one when it is over, however many saves failed, and others went well meanwhile."""
    now, before = 0.0, save_failures("HotTierUnavailable")
    reporting._save_outages["tiered"] = Repeated(monotonic=lambda: now)
    for _ in range(1000):
        with pytest.raises(HotTierUnavailable), reported_save(object(), "tiered"):
            raise HotTierUnavailable("Redis is away")
        with reported_save(object(), "tiered"):
            pass
    now = 6.0
    for _ in range(10):
        with reported_save(object(), "tiered"):
            pass
    assert save_failures("HotTierUnavailable") == before + 1000
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == [
        "snapshot.save_failed",
        "snapshot.saves_recovered",
    ]
    assert "untold=999" in caplog.records[1].getMessage()


def test_each_saga_whose_snapshots_cannot_be_stored_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """These are the caller's to mend: once for each saga and fault, not with every step, while each is counted."""
    before = save_failures("InvalidSnapshot")
    for saga_id in (1, 1, 1, 2, 1):
        with pytest.raises(InvalidSnapshot), reported_save(SimpleNamespace(saga_id=saga_id), "tiered"):
            raise InvalidSnapshot("context.x: a lock")
    with pytest.raises(InvalidSnapshot), reported_save(SimpleNamespace(saga_id=1), "tiered"):
        raise InvalidSnapshot("context.y: a socket")
    assert [record.getMessage().split("saga_id=")[1] for record in caplog.records] == ["1", "2", "1"]
    assert save_failures("InvalidSnapshot") == before + 6


def test_cancelled_save_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """It is neither logged nor turned into anything else."""
    with pytest.raises(asyncio.CancelledError), reported_save(object(), "tiered"):
        raise asyncio.CancelledError
    assert caplog.records == []


def test_read_that_fails_in_an_unforeseen_way_is_typed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A caller's mistake stays what it is; a damaged record is told where it is found."""
    with pytest.raises(UnexpectedFailure), measured_read("s3"):
        raise OSError("odd")
    with pytest.raises(ValueError, match="limit"), measured_read("s3"):
        raise ValueError("limit must not be negative")
    with pytest.raises(CorruptRecord), measured_read("s3"):
        raise CorruptRecord("bytes")
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == ["snapshot.read_failed"]
