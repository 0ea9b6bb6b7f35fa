"""The commands, the exit codes, and where every command ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from sagaz_tiering.cli.stderr import UsageError, report

EXIT_CODES = (
    (0, "done"),
    (1, "any other failure"),
    (2, "command line, configuration, policies, catalog schema or bucket are wrong"),
    (3, "a snapshot that cannot be stored"),
    (4, "a server that is needed cannot be asked"),
    (5, "archived: the bytes must be restored before they are read"),
    (6, "lost or corrupt data"),
    (7, "another process holds the lease, or another catalog owns the bucket prefix"),
    (8, "not found, or expired"),
    (9, "a legal hold forbids it"),
    (10, "would remove too large a share of all snapshots at once"),
    (11, "today's budget is used up"),
    (12, "the servers' clocks are too far apart to remove anything"),
    (13, "asked for a yes, and none came: nothing was changed"),
    (14, "no window of the job is open: it did not run"),
)
EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code}  {meaning}" for code, meaning in EXIT_CODES)

_COMPLETES = "_SAGAZ_TIERING_COMPLETE"
"""Set where a shell asks what may come next."""
_COMMANDS = {
    **dict.fromkeys(("init", "run", "demo", "doctor", "torture"), "start"),
    "job": "jobs",
    "plan": "plan",
    "status": "status",
    "find": "find",
    "timeline": "snapshot",
    "diff": "diff",
    "show": "snapshot",
    "explain": "snapshot",
    **dict.fromkeys(("hold", "release", "holds"), "holds"),
    "transfer": "transfer",
    **dict.fromkeys(("restore", "restores", "cancel-restore"), "restore"),
    "forget": "holds",
    "erasures": "holds",
    "console-token": "start",
}
"""Each command and the module of it in `commands`, in the order of `--help`."""
_GROUPS = {
    "policy": "plan",
    "catalog": "catalog",
    "replay": "replay",
    "quarantine": "jobs",
    "keys": "keys",
    "export": "transfer",
}
"""The same of groups of commands."""


def make_app(asked: str | None = None, *, alone: bool = False) -> typer.Typer:
    """The program. Where one command is `asked` for, the others have their name and what they are for alone: to find
    out what each takes would be a fourth of the work of `--help`. `alone`: the line begins with it, so that nothing is
    told of the others, and their modules are not needed."""
    app = typer.Typer(
        name="sagaz-tiering",
        help="Tiered storage for saga snapshots: Redis while hot, packs on S3 as they age, expired by policy.",
        epilog=EPILOG,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, module in _COMMANDS.items():
        if not alone or name == asked:
            each = getattr(_module(module), name.replace("-", "_"))
            app.command()(each if asked in (None, name) else _named_as(each))
    for name, module in _GROUPS.items():
        if not alone or name == asked:
            group = _module(module).group
            app.add_typer(group if asked in (None, name) else _named_as_group(group))
    app.callback()(_top)
    return app


def _module(name: str) -> Any:
    return import_module(f"sagaz_tiering.cli.commands.{name}")


def _named_as(command: Callable[..., Any]) -> Callable[[], None]:
    def named() -> None: ...

    named.__name__, named.__doc__ = command.__name__, command.__doc__
    return named


def _named_as_group(group: typer.Typer) -> typer.Typer:
    named = typer.Typer(name=group.info.name, help=group.info.help)
    if group.registered_callback is not None and group.registered_callback.callback is not None:
        named.callback()(_named_as(group.registered_callback.callback))
    return named


def _show_version(asked: bool) -> None:
    if asked:
        from sagaz_tiering import __version__

        print(f"sagaz-tiering {__version__}")
        raise typer.Exit


def _top(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Tiered storage for saga snapshots: Redis while hot, packs on S3 as they age, expired by policy."""


def run_app(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = None if _COMPLETES in os.environ else next((each for each in given if not each.startswith("-")), "")
    alone = bool(given) and given[0] == asked and (asked in _COMMANDS or asked in _GROUPS)
    try:
        code: Any = make_app(asked, alone=alone)(args=given, standalone_mode=False, prog_name="sagaz-tiering")
        sys.stdout.flush()
    except typer.Abort:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as exc:  # noqa: BLE001  # the CLI ends here
        return report(_as_usage_error(exc), as_json="--json" in given, debug="--debug" in given)
    return code if isinstance(code, int) else 0


def _as_usage_error(exc: Exception) -> Exception:
    """Typer's complaints in our form; which class they are of depends on its version."""
    say = getattr(exc, "format_message", None)
    if say is None:
        return exc
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "sagaz-tiering"
    # Without any arguments the "message" is the whole help text.
    message = "missing command" if type(exc).__name__ == "NoArgsIsHelpError" else say()
    return UsageError(message[:1].lower() + message[1:].rstrip("."), hint=f"see: {command} --help")
