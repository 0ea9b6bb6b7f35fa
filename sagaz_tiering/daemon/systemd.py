"""Our side of systemd's notify protocol (sd_notify(3)): datagrams to NOTIFY_SOCKET; nothing without one.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta

from sagaz_tiering.logs import Logger

_log = Logger(__name__)


class ServiceManager:
    """Tells whoever started us how we are. Telling never fails us: a supervisor that is gone is logged once."""

    def __init__(self, address: str | None = None, *, watchdog: timedelta | None = None) -> None:
        """`address` is a socket path, or `@name` for an abstract one; `watchdog` is the promised interval."""
        self.watchdog = watchdog
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._complained = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> ServiceManager:
        """What NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID ask for."""
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        # Without this check a child that inherited the environment would answer for its parent.
        is_ours = pid in ("", str(os.getpid()))
        watchdog = timedelta(microseconds=int(usec)) if usec.isdigit() and int(usec) and is_ours else None
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog=watchdog)

    def ready(self, status: str) -> None:
        """Started, or done with a reload."""
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={_one_line(status)}")

    def stopping(self, status: str, *, within: timedelta) -> None:
        """The end begins and takes at most `within`; systemd waits as long even if TimeoutStopSec is shorter."""
        usec = within // timedelta(microseconds=1)
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={usec}", f"STATUS={_one_line(status)}")

    async def keep_alive(self) -> None:
        """Answer the watchdog twice per interval for ever; from the event loop, so that a hang is noticed."""
        while self.watchdog is not None:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog.total_seconds() / 2)

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a supervisor that does not read must not stop the event loop
                sender.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as exc:
            if not self._complained:
                _log.warning("supervisor.not_reached", socket=self._address.replace("\0", "@"), error=str(exc))
            self._complained = True


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
