"""Processes that are forked from one which has imported everything: importing takes longer than most of them live."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["support.forked_from"])


def start_process(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """`target(*arguments)` in a process of its own, which is not waited for."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the server finds what tests import by it
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process
