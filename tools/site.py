"""What MkDocs cannot do by itself: pages made from the code, and links of pages to files that lie outside `docs/`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sagaz_tiering import errors
from sagaz_tiering.cli.app import EXIT_CODES, make_app

ROOT = Path(__file__).parents[1]
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md", "reporting.md": "SECURITY.md"}
"""Pages of the site that are files elsewhere."""
OUTSIDE = re.compile(r"\]\(\.\./(?:\.\./)?(?P<path>[^)#\s]+)\)")
NAMED = re.compile(r"(?<!\[)`docs/(?P<path>[\w/-]+\.md)`")
"""A page that is named and not linked, as README and changelog do."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files that pages point at."""
    made = {"reference/commands.md": commands(), "reference/errors.md": error_tree()}
    made |= {name: (ROOT / source).read_text(encoding="utf-8") for name, source in PAGES.items()}
    for name, text in made.items():
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=text))
    for source in sorted(_pointed_at(files)):
        files.append(File.generated(config, f"files/{source}", abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files outside lead to their copies; pages that are only named become links."""
    up = "../" * page.file.src_uri.count("/")
    markdown = OUTSIDE.sub(lambda found: _to_copy(found, up), markdown)
    return NAMED.sub(lambda found: f"[{found['path']}]({up}{found['path']})", markdown)


def _to_copy(found: re.Match[str], up: str) -> str:
    for name, source in PAGES.items():
        if found["path"] == source:
            return f"]({up}{name})"
    return f"]({up}files/{found['path']})" if (ROOT / found["path"]).is_file() else "](#)"


def _pointed_at(files: Files) -> set[str]:
    pages = (file.content_string for file in files.documentation_pages())
    named = {found["path"] for text in pages for found in OUTSIDE.finditer(text)}
    return {path for path in named - set(PAGES.values()) if (ROOT / path).is_file()}


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    parts = ["# Commands and options\n\nMade from the program; [Command line](../cli.md) says more of each.\n"]
    parts += _commands(typer.main.get_command(make_app()), "sagaz-tiering")
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES)
    return "\n".join([*parts, f"## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}\n"])


def _commands(command: Any, path: str) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    rows = [record for each in command.params if (record := each.get_help_record(context)) is not None]
    if rows or not hasattr(command, "commands"):
        table = "\n".join(f"| `{_cell(names)}` | {_cell(says)} |" for names, says in rows)
        yield f"## `{path}`\n\n{command.help or ''}\n\n| | |\n|---|---|\n{table}\n"
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(child, f"{path} {name}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def error_tree() -> str:
    """Every error class: what it means, its exit code, whether trying again helps, what to do."""
    tree = (errors.__doc__ or "").partition("\n\n")[2]
    rows = [_error(each) for each in vars(errors).values() if _is_error(each)]
    return "\n".join(
        [
            "# Errors\n",
            "All are in `sagaz_tiering.errors`. A command ends with the exit code; a program catches the class, or one",
            "above it. `hint` of the error that was raised says more than the table where it can.\n",
            f"```text output\n{tree}```\n",
            "| error | means | exit code | try again | what to do |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _is_error(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, errors.SagazTieringError)


def _error(each: type[errors.SagazTieringError]) -> str:
    says = _cell((each.__doc__ or "").partition("\n\n")[0].strip())
    hint = _cell(each.hint) if isinstance(each.hint, str) else "the error says it"
    return f"| `{each.__name__}` | {says} | {each.exit_code} | {'no' if each.permanent else 'yes'} | {hint} |"
