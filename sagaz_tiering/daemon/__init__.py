"""The daemon: runs the jobs by the schedule until told to stop.

`daemon` is the whole from start to exit, `schedule` decides when which job runs, `health` knows whether we are ready
and says so over HTTP, `systemd` to the supervisor.
It never moves a snapshot itself: each job does, under its lease.
"""

from __future__ import annotations

from sagaz_tiering.daemon.daemon import run

__all__ = ["run"]
