"""redis-py of each supported major: the private members that `drivers.redis.internals` uses are as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

TESTS = Path(__file__).parent.parent
RELEASES = {"5": "5.2.*", "6": "6.*", "7": "7.*", "8": "8.*"}


def folder_of(major: str, config: pytest.Config) -> Path | None:
    """Where this major is importable from (None: it is the installed one); fetched once."""
    if redis.__version__.partition(".")[0] == major:
        return None
    assert config.cache is not None
    folder = config.cache.mkdir(f"redis-py-{major}")
    if not (folder / "redis").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*pip, f"redis=={RELEASES[major]}"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"redis-py {major} cannot be fetched here: {done.stderr[-300:]}")
    return folder


@pytest.mark.parametrize("major", RELEASES)
def test_driver_of_each_major_works(major: str, redis_url: str, request: pytest.FixtureRequest) -> None:
    """Saves and reads on both kinds of connection; idle connections are dropped, an open one is cut."""
    folder = folder_of(major, request.config)
    path = os.pathsep.join(str(each) for each in (folder, TESTS) if each is not None)
    done = subprocess.run(
        [sys.executable, "-m", "support.redis_driver", redis_url, major],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
