"""What to do about what PostgreSQL refuses: the missing grant as SQL; user, database or TLS."""

from __future__ import annotations

import re
import shlex
from urllib.parse import unquote, urlsplit

from sagaz_tiering.config.urls import has_password

CATALOG_SETTING = "catalog.url"
CATALOG_VARIABLE = "SAGAZ_TIERING_CATALOG__URL"
CATALOG_SCHEMA = "sagaz_tiering"
MIGRATE = "run: sagaz-tiering catalog migrate --config FILE"

_DENIED = re.compile(r'permission denied for (\w+) "?([^"]+)"?$')
_LACKING = re.compile(r'(database|role) "(.+)" (does not exist|is not permitted to log in)')
_NO_TLS_THERE = ("rejected SSL upgrade", "SSL connection is required")
_PLAIN_REFUSED = ("no encryption", "SSL off")


def is_catalog(setting: str) -> bool:
    """Whether it is the catalog's, with or without the variable that gave it."""
    return setting.partition(" ")[0] == CATALOG_SETTING


def user_of(shown_url: str) -> str:
    """The role that the URL names, as SQL writes it."""
    name = unquote(urlsplit(shown_url).username or "")
    return "USER" if not name or "*" in name else _as_sql(name)


def _as_sql(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def missing_grant(said: str, shown_url: str, setting: str) -> str:
    """The statement that gives what PostgreSQL says is lacking."""
    user, denied = user_of(shown_url), _DENIED.search(said.splitlines()[0] if said else "")
    kind, name = (denied[1], denied[2]) if denied else ("", "")
    ours = is_catalog(setting)
    tables, where = (f"ALL TABLES IN SCHEMA {CATALOG_SCHEMA}", CATALOG_SCHEMA) if ours else (name, "public")
    grants = {
        "schema": f"USAGE ON SCHEMA {name}",
        "database": f"CREATE, CONNECT ON DATABASE {name}",
        "sequence": f"USAGE ON ALL SEQUENCES IN SCHEMA {where}",
        **dict.fromkeys(("table", "relation", "view"), f"SELECT, INSERT, UPDATE, DELETE ON {tables}"),
    }
    if kind in grants:
        return f"as the owner: GRANT {grants[kind]} TO {user}; (user of {setting})"
    if "must be owner" in said:
        return f"only the owner of the tables may do that: use its role in {setting}, or GRANT OWNER_ROLE TO {user}"
    return f"a right is missing: grant it to {user}, or name another role in {setting}"


def refusal_hint(said: str, shown_url: str, setting: str) -> str:
    """What to correct where PostgreSQL lets nobody in: its words tell the password from all else."""
    if any(words in said for words in _PLAIN_REFUSED):
        return f"the server takes only TLS from here: put sslmode=require (or verify-full) into {setting}"
    if "pg_hba.conf" in said:
        return f"pg_hba.conf of the server has no line for this host, user and database of {setting}: add one"
    if "password" in said:
        return _password_hint(shown_url, setting)
    lacking = _LACKING.search(said)
    if lacking and lacking[1] == "database":
        user = unquote(urlsplit(shown_url).username or "")
        owner = "" if not user or "*" in user else f"--owner={shlex.quote(user)} "
        return f"make it (createdb {owner}--encoding=UTF8 {shlex.quote(lacking[2])}), or correct its name in {setting}"
    if lacking:
        verb = "CREATE" if lacking[3] == "does not exist" else "ALTER"
        return f"{verb} ROLE {_as_sql(lacking[2])} LOGIN, or name another user in {setting}"
    return f"check user, password and database name in {setting}"


def _password_hint(shown_url: str, setting: str) -> str:
    """Whether a wrong one was given, or none."""
    if has_password(shown_url):
        return f"check user and password in {setting}"
    if not is_catalog(setting):
        return f"check user and password in {setting}, whose URL gives no password"
    example = (
        shown_url.replace("@", ":PASSWORD@", 1) if "@" in shown_url else "postgresql://USER:PASSWORD@HOST/DATABASE"
    )
    return f"{setting} gives no password: set {CATALOG_VARIABLE}={example}, or PGPASSWORD (where that is set: check it)"


def reach_hint(said: str, setting: str) -> str:
    """What to look at where PostgreSQL cannot be asked."""
    if any(words in said for words in _NO_TLS_THERE):
        return f"it speaks no TLS: set ssl = on there, or leave sslmode=require (verify-…) out of {setting}"
    return f"check {setting} and that PostgreSQL is running and reachable"
