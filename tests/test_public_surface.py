"""What strangers hold on to stays as it is: `tests/nets` holds it, and a change there is made on purpose.

python tests/test_public_surface.py     # writes the files anew: read the difference before you commit it
"""

from __future__ import annotations

import asyncio
import difflib
import sys
from pathlib import Path

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]

import pytest  # noqa: E402
from support.documents import document_keys  # noqa: E402
from support.json_reference import NOT_SHOWN, json_reference  # noqa: E402
from support.servers import fresh_database, new_folder, server_folder  # noqa: E402
from support.surface import NETS, commands_with  # noqa: E402

from sagaz_tiering.embedded import PostgresServer, RedisServer  # noqa: E402

FOLDER = HERE / "nets"
DOCUMENTS = "documents.json"
REFERENCE = HERE.parent / "docs" / "reference" / "json.md"


def compare(name: str, found: str) -> None:
    """Fail with the difference between what is recorded and what is there now."""
    held = (FOLDER / name).read_text(encoding="utf-8")
    if held != found:
        lines = difflib.unified_diff(held.splitlines(), found.splitlines(), f"tests/nets/{name}", "now", lineterm="")
        pytest.fail(
            "\n".join(lines)
            + "\n\nOthers rely on that. Is the change meant? Then: python tests/test_public_surface.py, and say it in"
            " CHANGELOG.md.",
            pytrace=False,
        )


@pytest.mark.parametrize("name", NETS)
def test_surface_is_the_recorded_one(name: str) -> None:
    """Public names, errors, help, metrics, events, settings and migrations are what was promised."""
    compare(name, NETS[name]())


def test_reference_of_documents_is_written_from_what_is_recorded() -> None:
    """docs/reference/json.md tells the keys of each command's document."""
    held = REFERENCE.read_text(encoding="utf-8")
    assert held == json_reference((FOLDER / DOCUMENTS).read_text(encoding="utf-8"))


def test_reference_of_documents_shows_each_command() -> None:
    """Each that takes `--json` has its part there, but for those that the page says are not."""
    page, told = REFERENCE.read_text(encoding="utf-8"), set(commands_with("--json"))
    assert {name for name in told if f"\n## `{name}`\n" not in page} == NOT_SHOWN


@pytest.mark.slow
async def test_documents_have_the_recorded_keys(empty_database: str, redis_url: str, tmp_path: Path) -> None:
    """What each command says with `--json` has the same keys, of the same kinds, and the same exit code."""
    compare(DOCUMENTS, await document_keys(tmp_path, database=empty_database, redis_url=redis_url))


async def _record() -> None:
    for name, make in NETS.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")
    with server_folder() as folder:
        async with (
            PostgresServer(new_folder(folder, "postgres"), durable=False) as postgres,
            RedisServer(new_folder(folder, "redis"), durable=False) as redis,
            fresh_database(postgres) as database,
        ):
            work = new_folder(folder, "work")
            text = await document_keys(work, database=database, redis_url=redis.url)
            (FOLDER / DOCUMENTS).write_text(text, encoding="utf-8")
            REFERENCE.write_text(json_reference(text), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_record())
