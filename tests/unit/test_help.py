"""`--help` is quick, since it loads nothing that only a command needs."""

from __future__ import annotations

import sys
from subprocess import check_output

import pytest
import typer

from sagaz_tiering.cli.app import make_app, run_app

OF_OTHERS = {"annotated_doc", "click", "shellingham", "typer", "typing_extensions"}
OURS = {"cli", "config", "errors", "storage_class", "terminal"}
SCRIPT = """
import sys
from sagaz_tiering.cli import main
before = set(sys.modules)
code = main(sys.argv[1:])
print("loaded", code, *sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_no_driver_no_engine_and_no_server(arguments: list[str]) -> None:
    """Of other packages the parser of the command line alone, of ours the commands, errors and words for a terminal.

    What runs a command is loaded as it runs.
    """
    said = check_output([sys.executable, "-c", SCRIPT, *arguments], text=True)
    _, code, *loaded = said.splitlines()[-1].split()
    assert code == "0"
    names = {name for name in loaded if "." not in name and not name.startswith("_")} - sys.stdlib_module_names
    assert names - {"sagaz_tiering"} <= OF_OTHERS
    assert {name.split(".")[1] for name in loaded if name.startswith("sagaz_tiering.")} <= OURS
    assert not {"asyncio", "decimal", "getpass", "hashlib", "logging", "secrets", "shlex", "ssl"} & set(loaded)


@pytest.mark.parametrize("asked", ["status", "cancel-restore", "export", "keys", ""])
def test_only_the_command_that_is_asked_for_is_looked_into(asked: str) -> None:
    """Of the others there is what the list of commands shows, in its order."""
    one, whole = (typer.main.get_command(make_app(each)).commands for each in (asked, None))  # type: ignore[attr-defined]  # it is a group
    assert [(name, each.get_short_help_str()) for name, each in one.items()] == [
        (name, each.get_short_help_str()) for name, each in whole.items()
    ]
    assert {name for name, each in one.items() if each.params or getattr(each, "commands", ())} == {asked} - {""}
    if asked:
        assert len(one[asked].params) == len(whole[asked].params)
        assert list(getattr(one[asked], "commands", ())) == list(getattr(whole[asked], "commands", ()))


@pytest.mark.parametrize("group", [None, "policy", "catalog", "replay", "quarantine", "keys", "export"])
def test_list_of_commands_has_whole_sentences_in_80_columns(
    group: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each command the first one, which says what it is for; none breaks off."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run_app([*([] if group is None else [group]), "--help"]) == 0
    shown = capsys.readouterr().out.partition("Commands:")[2]
    assert shown
    assert not [line for line in shown.splitlines() if line.endswith("...")]
