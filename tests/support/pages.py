"""What pages tell people to type, run as it is written.

A fenced block of `sh` is run line by line, and each line must end well, or with the code in its comment, as in
`# exit code 6`. A block with a title is a file. `output` after the language says that a block shows what came out,
`install` that it is for an empty machine (`make release-check`).
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.commands import DEADLINE_S, Answer, clean_environment, cli
from support.daemon_process import DaemonProcess, daemon

_FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_CODE = re.compile(r"#.*exit code (\d+)")
_SHELL = re.compile(r"[|&;<>$`*]")
DAEMON = "systemctl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: its language, what else its first line says, and where it begins."""

    language: str
    words: frozenset[str]
    title: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Those of a page or of a part of one."""
    for found in _FENCE.finditer(text):
        info, title = found["info"], _TITLE.search(found["info"])
        language, *words = _TITLE.sub("", info).split()
        yield Block(
            language=language,
            words=frozenset(words),
            title=title[1] if title else "",
            text=found["text"],
            line=text.count("\n", 0, found.start()) + 1,
        )


def section(page: Path, title: str) -> str:
    """What stands under a heading of the second level."""
    found = page.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    assert found[1], f"{page.name} has no section {title!r}"
    return found[2].partition("\n## ")[0]


_IS_RUNNING = "skipped, another process is running it"


@dataclass(slots=True)
class Operator:
    """Somebody who types what a page says, in one folder, with these variables, and these words in place of others."""

    folder: Path
    environ: dict[str, str]
    words: dict[str, str] = field(default_factory=dict)
    said: list[tuple[str, Answer]] = field(default_factory=list)
    _daemon: AsyncExitStack = field(default_factory=AsyncExitStack)
    _process: DaemonProcess | None = None

    async def follow(self, text: str, words: Mapping[str, str] | None = None) -> list[tuple[str, Answer]]:
        """Do all that it says, in its order; what each line answered."""
        begun = len(self.said)
        self.words |= words or {}
        for block in blocks(text):
            if block.title:
                path = self.folder / self.meant(block.title)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.meant(block.text), encoding="utf-8")
            elif block.language == "sh" and "install" not in block.words:
                for line in block.text.replace("\\\n", " ").splitlines():
                    if line.partition("#")[0].strip():
                        await self.type(line)
        return self.said[begun:]

    def meant(self, text: str) -> str:
        """With the words of this place."""
        for written, here in sorted(self.words.items(), key=lambda each: -len(each[0])):
            text = text.replace(written, here)
        return text

    async def type(self, line: str) -> None:
        """One line, which must end as it says; once more where a daemon is at that job at this moment."""
        code = _CODE.search(line)
        command = self.meant(line.partition("  #")[0].strip())
        until = time.monotonic() + DEADLINE_S
        while _IS_RUNNING in (answer := await self._run(command)).out and time.monotonic() < until:
            continue
        self.said.append((line.strip(), answer))
        assert answer.code == int(code[1] if code else 0), f"{line}\n{answer.out}\n{answer.err}"

    async def _run(self, command: str) -> Answer:
        name, *rest = command.split()
        if name == DAEMON:
            await self._systemctl(rest[0])
            return Answer(0, "", "")
        if name == "sagaz-tiering" and not _SHELL.search(re.sub(r"'[^']*'", "", command)):
            return await cli(*shlex.split(command)[1:], cwd=self.folder, **self.environ)
        return await asyncio.to_thread(self._shell, command)

    def _shell(self, command: str) -> Answer:
        path = f"{Path(sys.executable).parent}:{self.environ.get('PATH', os.environ['PATH'])}"
        environ = clean_environment(**{**self.environ, "PATH": path})
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Answer(ran.returncode, ran.stdout, ran.stderr)

    async def _systemctl(self, verb: str) -> None:
        """What systemd does with the unit: a daemon is started until it is ready, told to read its file, stopped."""
        if verb == "start":
            config = Path(self.environ["SAGAZ_TIERING_CONFIG"])
            self._process = await self._daemon.enter_async_context(daemon(self.folder, config, **self.environ))
            await self._process.ready()
        elif self._process is not None and verb == "reload":
            before = len(self._process.logged("config.reloaded"))
            self._process.signal(signal.SIGHUP)
            process = self._process
            await process.until(lambda: len(process.logged("config.reloaded")) > before)
        elif self._process is not None and verb == "stop":
            assert await self._process.stop() == 0
            self._process = None


@asynccontextmanager
async def operator(folder: Path, **environ: str) -> AsyncIterator[Operator]:
    """Whoever follows a page; a daemon that was left running is ended."""
    stack = AsyncExitStack()
    async with stack:
        yield Operator(folder, environ, _daemon=stack)
