"""`init`: a first configuration for what this machine has, and what to do next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.options import CONFIG_PLACES
from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.errors import ConfigError


@command(config=False)
async def init(
    call: Call,
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="File to write.")] = CONFIG_PLACES[0],
    bucket: Annotated[
        str | None,
        typer.Option(metavar="NAME[/PREFIX]", help="Packs go to this S3 bucket instead of a folder."),
    ] = None,
) -> Answer:
    """Write a configuration for the servers that are here. It is commented; then it says what to do next."""
    import shlex

    from sagaz_tiering.doctor.setup import configuration, look, password_advice, preparations

    _refuse_if_there(file)
    found = await look(os.environ, Path.home())
    data = ".sagaz-tiering" if file.parent.name != "config" else "../.sagaz-tiering"
    _write(file, configuration(found, bucket, data))
    option = "" if file == CONFIG_PLACES[0] else f" --config {shlex.quote(str(file))}"
    verbs = ("catalog migrate", "doctor", "run")
    commands = [*preparations(found), *(f"sagaz-tiering {verb}{option}" for verb in verbs)]
    advice = []
    answers = {"tiers.hot.url": found.redis, "catalog.url": found.postgresql}
    if not found.embedded and not all(answers[name] for name in answers if name not in found.urls):
        advice.append(
            "start the servers that do not answer, or have them started: pip install 'sagaz-tiering[embedded]', "
            "and init again"
        )
    if (password := password_advice(found)) is not None:
        advice.append(password)
    if found.aws is not None and bucket is None and "tiers.cold.url" not in found.urls:
        advice.append("with --bucket NAME packs go to S3")
    document = {"file": str(file), "found": found, "commands": commands, "advice": advice}
    return Answer(
        document,
        [
            *found.told(),
            f"wrote {file}; read it, it is short",
            *(f"note: {each}" for each in advice),
            "next:",
            *(f"  {each}" for each in commands),
        ],
    )


def _refuse_if_there(file: Path) -> None:
    if os.path.lexists(file):
        raise UsageError(f"{file} is there already, and was left as it is", hint="name another FILE, or move that one")


def _write(file: Path, text: str) -> None:
    """Only where nothing is, and only what is a configuration."""
    from sagaz_tiering.config.load import load_config
    from sagaz_tiering.drivers.files import refusing

    with refusing(f"{file}: cannot be written", "name another FILE"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    try:
        load_config(file)
    except ConfigError:
        file.unlink()
        raise
