"""Who may look and who may change something: tokens, sessions, a trusted proxy.

Tokens are long random texts of which the configuration has hashes. A session lives in this process alone and is named
by a cookie; what changes something carries a second text that only our own pages know (CSRF). Without a token or a
proxy everybody on this machine may look, and nobody may change anything.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from sagaz_tiering.config.sections import ConsoleSettings, is_loopback

COOKIE: Final = "sagaz_console"
_MOST_SESSIONS: Final = 10_000
_FREE_TRIES: Final = 5
_FORGET_TRIES_S: Final = 300.0
_MOST_ADDRESSES: Final = 10_000
_MOST_TOKEN: Final = 512
_PORTS: Final = {"http": 80, "https": 443}


class Role(StrEnum):
    """What somebody may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks. `csrf`: what a form must carry; None for a program with a token, which no page can make ask."""

    name: str
    role: Role
    csrf: str | None = None

    @property
    def may_change(self) -> bool:
        """Whether this one may restore, hold, release and forget."""
        return self.role is Role.OPERATOR


class TooManyTries(Exception):
    """So many wrong tokens came from there that this one is told to wait `wait_s` seconds. A right one is let in."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many wrong tokens; try again in {wait_s:.0f} s")
        self.wait_s = wait_s


class Access:
    """Answers who a request comes from."""

    def __init__(self, settings: ConsoleSettings, monotonic: Callable[[], float]) -> None:
        """`monotonic` gives seconds that only grow."""
        self._settings = settings
        self._monotonic = monotonic
        self._secret = secrets.token_bytes(32)
        self._sessions: OrderedDict[str, tuple[Visitor, float, float]] = OrderedDict()
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def visitor(self, request: web.Request) -> Visitor | None:
        """Who asks; None: somebody who must log in. Raises TooManyTries."""
        settings = self._settings
        if settings.is_open:
            return Visitor(name="local", role=Role.VIEWER, csrf=self._csrf("local"))
        if (known := self._of_proxy(request)) is not None:
            return known
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            role = self._role_of(token.strip(), _address(request))
            return None if role is None else Visitor(name=f"{role} token", role=role)
        return self._of_session(request)

    def log_in(self, request: web.Request, token: str, name: str) -> str | None:
        """A new session's id, for the cookie; None for a wrong token. Raises TooManyTries."""
        role = self._role_of(token, _address(request))
        if role is None:
            return None
        self.log_out(request)
        session, now = secrets.token_urlsafe(32), self._monotonic()
        while len(self._sessions) >= _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        visitor = Visitor(name=name or f"{role} token", role=role, csrf=self._csrf(session))
        self._sessions[session] = visitor, now, now
        return session

    def log_out(self, request: web.Request) -> None:
        """The session is no more."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def why_not_ours(self, request: web.Request, visitor: Visitor, sent: str) -> str | None:
        """Why a request that changes something is not from one of our pages; None if it is, or of a program's token."""
        if visitor.csrf is None:
            return None
        if (reason := self.why_elsewhere(request)) is not None:
            return reason
        if not hmac.compare_digest(visitor.csrf.encode(), sent.encode("utf-8", "replace")):
            return "this form is not from a page of this session any more; load the page again"
        return None

    def why_elsewhere(self, request: web.Request) -> str | None:
        """Why a browser says that the request comes from a page of another server; None if it does not."""
        site, origin, host = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin"), self._host(request)
        if site is not None:  # which a browser says of itself, whatever names a proxy in between goes by
            return None if site in ("same-origin", "none") else "the browser says that this form is from another site"
        scheme = self._scheme(request)
        if origin is None or _is_at(origin, scheme, host):
            return None
        asked_for = host if scheme is None else f"{scheme}://{host}"
        return (
            f"the browser says that this form is from {origin:.200}, and the console was asked for as "
            f"{asked_for:.200}; if both are it, have the reverse proxy pass on the name that it was asked for "
            "(nginx: `proxy_set_header Host $http_host;`, Apache: `ProxyPreserveHost On`), or name its address in "
            "console.proxy.addresses and have it set X-Forwarded-Host and X-Forwarded-Proto"
        )

    def is_known_host(self, request: web.Request) -> bool:
        """Where everybody may look only names of this machine count: a page elsewhere may have its name lead here."""
        return not self._settings.is_open or is_loopback(_host_of(f"//{request.host}"))

    def is_secure(self, request: web.Request) -> bool:
        """Whether the browser speaks https, to us or to the proxy."""
        return self._scheme(request) == "https"

    def _scheme(self, request: web.Request) -> str | None:
        """How the browser asked, as the proxy says if there is one; None where a proxy in between may not have said."""
        if request.secure:
            return "https"
        if self._settings.proxy is None:
            return None
        if not self._from_proxy(request):
            return "http"
        return request.headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower() or None

    def _host(self, request: web.Request) -> str:
        """Name and port that the browser asked for, as the proxy says if there is one."""
        forwarded = request.headers.get("X-Forwarded-Host", "") if self._from_proxy(request) else ""
        return forwarded.split(",")[0].strip() or request.host

    def _of_proxy(self, request: web.Request) -> Visitor | None:
        proxy = self._settings.proxy
        if proxy is None or not self._from_proxy(request):
            return None
        named = request.headers.getall(proxy.user_header, [])
        if len(named) != 1 or not named[0].strip():
            return None
        name = named[0].strip()[:200]
        role = Role.OPERATOR if name in proxy.operators else Role.VIEWER
        return Visitor(name=name, role=role, csrf=self._csrf(f"proxy {name}"))

    def _from_proxy(self, request: web.Request) -> bool:
        proxy = self._settings.proxy
        if proxy is None:
            return False
        try:
            address = ip_address(_address(request).partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in proxy.addresses)

    def _of_session(self, request: web.Request) -> Visitor | None:
        named, now = request.cookies.get(COOKIE, ""), self._monotonic()
        if named not in self._sessions:
            return None
        visitor, began, seen = self._sessions[named]
        if now - seen > self._settings.idle.total_seconds() or now - began > self._settings.session.total_seconds():
            del self._sessions[named]
            return None
        self._sessions[named] = visitor, began, now
        return visitor

    def _role_of(self, token: str, address: str) -> Role | None:
        """Wrong tokens of an address are counted, and after some of them the next wrong ones are told to wait, longer
        each time. A right one never is: its length keeps it from being guessed, and people share addresses.
        """
        digest = sha256(token[:_MOST_TOKEN].encode("utf-8", "replace")).hexdigest()
        found, settings = None, self._settings
        for role, known in zip(Role, (settings.viewer_token_hash, settings.operator_token_hash), strict=True):
            if known is not None and hmac.compare_digest(digest, known):
                found = role
        if found is None:
            self._count_wrong(address)
        return found

    def _count_wrong(self, address: str) -> None:
        wrong, until = self._tries.pop(address, (0, 0.0))
        now = self._monotonic()
        if now > until + _FORGET_TRIES_S:
            wrong = 0
        waits = wrong >= _FREE_TRIES and now < until
        while len(self._tries) >= _MOST_ADDRESSES:
            self._tries.popitem(last=False)
        if not waits:
            wrong, until = wrong + 1, now + min(2.0 ** (wrong + 1 - _FREE_TRIES), _FORGET_TRIES_S)
        self._tries[address] = wrong, until
        if waits:
            raise TooManyTries(until - now)

    def _csrf(self, who: str) -> str:
        return hmac.new(self._secret, who.encode("utf-8", "surrogatepass"), sha256).hexdigest()


def _is_at(origin: str, scheme: str | None, host: str) -> bool:
    """Whether an origin is that scheme (None: any that browsers have for pages), name and port."""
    try:
        found, wanted = urlsplit(origin), urlsplit(f"//{host}")
        usual = _PORTS.get(found.scheme)
        if usual is None or scheme not in (None, found.scheme):
            return False
        return bool(found.hostname) and (found.hostname, found.port or usual) == (wanted.hostname, wanted.port or usual)
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _address(request: web.Request) -> str:
    return request.remote or ""
