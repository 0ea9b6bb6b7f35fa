"""What to do about what Redis refuses: the missing right by its command, TLS or none."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from redis.exceptions import NoPermissionError, ResponseError

_COMMAND = re.compile(r"to run the '([^']+)' command")


def is_missing_right(error: BaseException | None) -> bool:
    """Whether Redis says that the user lacks a right; scripts tell it of a command inside as an error of their own."""
    return isinstance(error, NoPermissionError) or (isinstance(error, ResponseError) and "ACL failure" in str(error))


def missing_right(said: str, where: str, *, setting: str, keys: str) -> str:
    """The ACL command that gives the user of the URL `where` what Redis says that it lacks; `keys`: a pattern."""
    named = re.search(r"\bUser (\S+) has no permissions", said)
    user = named[1] if named else unquote(urlsplit(where).username or "") or "default"
    command = _COMMAND.search(said)
    right = f"~{keys}" if command is None else f"+{command[1].lower()}"
    return f"as Redis' administrator: ACL SETUSER {user} {right} (the user of {setting})"


def tls_hint(where: str) -> str:
    """What to think of where a server closes or does not answer, which is all that is seen of a wrong kind of port."""
    if where.startswith("rediss"):
        return "and that it speaks TLS at that port (redis:// is without)"
    return "a port that speaks TLS needs rediss://"
