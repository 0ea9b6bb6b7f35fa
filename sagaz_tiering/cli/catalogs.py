"""`catalog migrate`: make or upgrade the catalog's tables."""

from __future__ import annotations

import typer

from sagaz_tiering.cli.options import ConfigOption, DebugOption, JsonOption, locate_config
from sagaz_tiering.cli.session import execute
from sagaz_tiering.terminal import print_json

group = typer.Typer(name="catalog", help="The catalog in PostgreSQL.", rich_markup_mode=None)


@group.callback()
def _catalog() -> None:
    """The catalog in PostgreSQL."""


@group.command("migrate")
def migrate(config: ConfigOption = None, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Apply the migrations that the database lacks; repeating it does nothing."""

    async def work() -> None:
        path = locate_config(config)
        from sagaz_tiering.config_file import load_config
        from sagaz_tiering.db import migrations
        from sagaz_tiering.wiring import open_database

        async with open_database(load_config(path)) as db:
            applied = await migrations.migrate(db)
            # A newer schema than this code's has nothing to apply, and is not fine.
            await migrations.check_schema(db)
            version = await migrations.current_version(db)
        if as_json:
            print_json({"version": version, "applied": [{"version": m.version, "name": m.name} for m in applied]})
            return
        for migration in applied:
            print(f"applied {migration.version:04d} {migration.name}")
        print(f"the catalog is at schema {version}" + ("" if applied else ", nothing to do"))

    execute(work, as_json=as_json, debug=debug)
