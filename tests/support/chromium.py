"""A headless Chromium for what only a browser shows; where there is none, tests that ask for it are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
AXE: Final = "axe-core@4.11.0"
IMAGES: Final = "CONSOLE_IMAGES"
"""A folder in the environment: pictures for the documentation go there."""
_WITHIN_MS: Final = 300_000
"""A busy machine is no fault."""
_GIVEN_UP: Final = ("htmx:afterRequest", "htmx:sendAbort")
"""Said of a question whose answer nobody waits for any more; where a server fails, more is said."""
_COLOURS: Final = 255
_TELL_VIOLATIONS: Final = """
document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy ${event.effectiveDirective} refused ${event.blockedURI}`));
"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """Playwright's Browser."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    async_api = pytest.importorskip("playwright.async_api", reason="needs the extra browser")
    async with async_api.async_playwright() as playwright:
        rooted = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
        browser = await playwright.chromium.launch(executable_path=path, args=rooted)
        try:
            yield browser
        finally:
            await browser.close()


class Window:
    """A page of a browser and what was wrong in it: refused by its policy, failed in a script."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.set_default_timeout(_WITHIN_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def _said(self, said: Any) -> None:
        if said.type in ("error", "warning") and not said.text.startswith(_GIVEN_UP):
            self.wrong.append(said.text)

    async def picture(self, name: str, *, full: bool = False) -> None:
        """Of what is seen, for the documentation where it is asked for."""
        folder = os.environ.get(IMAGES)
        if folder:
            keep(await self.page.screenshot(full_page=full), Path(folder, f"console-{name}.png"))


@asynccontextmanager
async def window(browser: Any, *, theme: str = "light", width: int = 1280, height: int = 860) -> AsyncIterator[Window]:
    """A window of a fresh profile."""
    context = await browser.new_context(
        color_scheme=theme, viewport={"width": width, "height": height}, reduced_motion="reduce", accept_downloads=True
    )
    await context.add_init_script(_TELL_VIOLATIONS)
    try:
        yield Window(await context.new_page())
    finally:
        await context.close()


def keep(picture: bytes, path: Path) -> None:
    """With few colours: a page has no more, and the file is a third as large."""
    from PIL import Image

    with Image.open(BytesIO(picture)) as image:
        few = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def axe(folder: Path) -> str:
    """The script of axe-core, which npm puts into `folder` once."""
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("there is no npm to fetch axe-core with: apt-get install npm")
        command = [npm, "install", "--prefix", str(folder), "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run([*command, AXE], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm could not fetch {AXE}: {done.stderr[-300:]}")
    return script.read_text("utf-8")
