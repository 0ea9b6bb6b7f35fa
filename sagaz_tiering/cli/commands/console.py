"""`console-token`: a token for the console in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from sagaz_tiering.cli.session import Answer, Call, command, fields

_BYTES = 32


@command()
async def console_token(
    call: Call,
    operator: Annotated[bool, typer.Option("--operator", help="For who may also restore, hold and forget.")] = False,
) -> Answer:
    """Make a token for the console. Give it to people, and its hash to the configuration; nothing is stored."""
    import secrets
    from hashlib import sha256

    token = secrets.token_urlsafe(_BYTES)
    setting = f"{'operator' if operator else 'viewer'}_token_hash"
    digest = sha256(token.encode()).hexdigest()
    rows = [
        ("token", f"{token}  (shown only now)"),
        ("setting", f"console: {{{setting}: {digest}}}"),
        ("or", f"SAGAZ_TIERING_CONSOLE__{setting.upper()}={digest}"),
    ]
    return Answer({"token": token, "setting": f"console.{setting}", "hash": digest}, fields(rows, width=9))
