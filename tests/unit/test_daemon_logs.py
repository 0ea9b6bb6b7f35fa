"""Log lines: their form, and what is never in them."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import structlog

from sagaz_tiering import logs


@pytest.fixture(autouse=True)
def unconfigured_afterwards() -> Iterator[None]:
    """Logging is a global of the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_logs_are_json_lines_with_utc_times() -> None:
    """Off a terminal each event is one JSON object; what is below the level is left out."""
    out = io.StringIO()
    logs.configure(level="info", stream=out)
    log = structlog.get_logger()
    log.debug("pack.looked_at")
    log.info("pack.sealed", snapshots=3)
    (line,) = lines(out)
    assert line["event"] == "pack.sealed"
    assert line["level"] == "info"
    assert line["snapshots"] == 3
    assert datetime.fromisoformat(str(line["timestamp"])).utcoffset() is not None


def test_logs_never_hold_secrets() -> None:
    """Credentials in URLs, values under secret names and secrets in tracebacks are hidden, however deep."""
    out = io.StringIO()
    logs.configure(format="json", stream=out)
    log = structlog.get_logger()
    log.info("a.b", url="redis://user:hunter2@host/0", nested={"list": ["postgresql://u:hunter2@h/d"]})
    log.info("a.b", password="hunter2", settings={"secret_access_key": "hunter2"})
    try:
        raise ValueError("cannot reach postgresql://u:hunter2@h/d")
    except ValueError as exc:
        log.exception("a.b", error=exc)
    logging.getLogger("some.library").warning("gave up on %s", "redis://:hunter2@host")
    assert "hunter2" not in out.getvalue()
    assert len(lines(out)) == 4


def test_logs_take_values_that_json_cannot() -> None:
    """A lone surrogate or a huge integer costs the form of the line, never the line."""
    out = io.StringIO()
    logs.configure(format="json", stream=out)
    structlog.get_logger().info("a.b", text="\ud800", number=2**80)
    assert lines(out)[0]["event"] == "a.b"


def test_logs_tell_journald_their_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under systemd every line starts with its syslog priority."""
    with (tmp_path / "journal").open("w+") as out:
        status = os.fstat(out.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure(format="json", stream=out)
        structlog.get_logger().warning("a.b")
        out.seek(0)
        assert out.read().startswith('<4>{"timestamp"')


def test_logs_for_people_fit_a_terminal() -> None:
    """The console form has the event and its fields, without JSON."""
    out = io.StringIO()
    logs.configure(format="console", stream=out)
    structlog.get_logger().info("pack.sealed", snapshots=3)
    assert "pack.sealed" in out.getvalue()
    assert "snapshots=3" in out.getvalue()
    assert not out.getvalue().startswith("{")
