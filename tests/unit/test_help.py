"""`--help` is quick, since it loads nothing that only a command needs."""

from __future__ import annotations

import sys
from subprocess import check_output

import pytest

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
    assert not {"asyncio", "ssl"} & set(loaded)
