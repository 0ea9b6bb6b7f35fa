"""The daemon: runs the jobs by the schedule until told to stop.

`life` is the whole from start to exit, `schedule` decides when which job runs, `health` knows whether we are
ready, `endpoints` says so over HTTP and `supervisor` to systemd, `reload` compares configurations.
"""

from __future__ import annotations

from sagaz_tiering.daemon.daemon import run

__all__ = ["run"]
