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


def test_logs_hide_secrets_in_query_parameters_and_console_tracebacks() -> None:
    """On a terminal, too, and wherever in a URL they stand."""
    out = io.StringIO()
    logs.configure(format="console", stream=out)
    log = structlog.get_logger()
    log.info("a.b", url="postgresql://h/d?sslpassword=hunter2&application_name=x")
    log.info("a.b", url="https://h/o?X-Amz-Signature=hunter2&X-Amz-Security-Token=hunter2")
    try:
        raise ValueError("cannot reach postgresql://u:hunter2@h/d?password=hunter2")
    except ValueError:
        log.exception("a.b")
    assert "hunter2" not in out.getvalue()
    assert "Traceback" in out.getvalue()
    assert "application_name=x" in out.getvalue()


def test_logs_on_a_console_escape_control_characters() -> None:
    """A hostile name moves no cursor and forges no line; a traceback keeps its lines."""
    out = io.StringIO()
    logs.configure(format="console", stream=out)
    log = structlog.get_logger()
    log.info("a.b", saga_name="\x1b[2Jgone\nforged\r\u202e")
    try:
        raise ValueError("\x1b]0;title\x07")
    except ValueError:
        log.exception("a.b")
    text = out.getvalue()
    assert not {"\x1b", "\r", "\u202e", "\x07"} & set(text)
    assert "\nforged" not in text
    assert "\n" in text[text.index("Traceback") :]


def test_library_events_go_to_the_hosts_logging(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never to stdout; under the module's name, with the fields on the record, secrets hidden, lines whole."""
    structlog.reset_defaults()
    log = logs.Logger("sagaz_tiering.somewhere")
    with caplog.at_level(logging.INFO, logger="sagaz_tiering"):
        log.debug("not.wanted")
        log.warning("pack.sealed", snapshots=3, share="50 %", name="two\nlines", url="redis://u:hunter2@h")
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("job.failed", job="age")
    sealed, failed = caplog.records
    assert sealed.getMessage() == "pack.sealed snapshots=3 share='50 %' name='two\\nlines' url=redis://u:***@h"
    assert (sealed.name, sealed.levelno) == ("sagaz_tiering.somewhere", logging.WARNING)
    assert sealed.fields["snapshots"] == 3  # type: ignore[attr-defined]  # `extra`
    assert failed.exc_info is not None
    assert capsys.readouterr() == ("", "")


def test_library_events_go_to_structlog_where_the_host_configured_it() -> None:
    """Then the host's processors decide."""
    out = io.StringIO()
    logs.configure(format="json", stream=out)
    logs.Logger("sagaz_tiering.somewhere").info("pack.sealed", snapshots=3)
    (line,) = lines(out)
    assert (line["event"], line["snapshots"]) == ("pack.sealed", 3)


def test_repeated_event_is_told_once_in_a_while_and_counted() -> None:
    """The first at once, then one per interval with how many there were, and the rest at the end."""
    now = 0.0
    repeated = logs.Repeated(every_s=30, monotonic=lambda: now)
    assert repeated.over() == {}
    assert repeated.due("redis") == {}
    assert [repeated.due("redis") for _ in range(5)] == [None] * 5
    assert repeated.due("postgresql") == {}
    now = 31.0
    assert repeated.due("redis") == {"times": 6}
    assert repeated.due("redis") is None
    assert repeated.over() == {}  # a call that had no need of the server
    now = 37.0
    assert repeated.over() == {"redis": 1, "postgresql": 0}
    assert repeated.over() == {}
    assert repeated.due("redis") == {}
