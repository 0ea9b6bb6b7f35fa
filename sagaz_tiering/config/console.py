"""The section `console`: who may look at the store in a browser, and who may change something there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Annotated

from pydantic import Field

from sagaz_tiering.config.schema import Location, StrictModel
from sagaz_tiering.config.units import Duration

TokenHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of a token, as `sagaz-tiering console-token` prints it."""


class ProxySettings(StrictModel):
    """A reverse proxy that has asked people who they are; nobody else must be able to ask from its addresses."""

    addresses: Annotated[tuple[IPv4Network | IPv6Network, ...], Field(min_length=1)]
    """Addresses or networks that the proxy asks from, such as `10.0.0.5` or `10.1.0.0/16`."""
    user_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "X-Forwarded-User"
    """Header in which it names the person; without it nobody is let in."""
    operators: tuple[str, ...] = ()
    """Names that may change something; the others may look."""


class ConsoleSettings(StrictModel):
    """The console in a browser. Without a token or a proxy it listens on this machine only, and changes nothing."""

    enabled: bool = False
    """Whether the daemon serves it."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9465
    """Port; 0 for any free one."""
    viewer_token_hash: TokenHash | None = None
    """Hash of the token with which one may look."""
    operator_token_hash: TokenHash | None = None
    """Hash of the token with which one may look, restore, hold, release and forget."""
    proxy: ProxySettings | None = None
    """A reverse proxy that says who asks."""
    idle: Duration = timedelta(minutes=30)
    """After so long without a request one has to log in again."""
    session: Duration = timedelta(hours=12)
    """After so long in any case."""

    @property
    def is_open(self) -> bool:
        """Whether everybody who can reach it may look: there is neither a token nor a proxy."""
        return self.viewer_token_hash is None and self.operator_token_hash is None and self.proxy is None

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.is_open and not is_loopback(self.host):
            yield (
                ("host",),
                f"{self.host} can be reached from elsewhere, but anybody could look; set viewer_token_hash and "
                "operator_token_hash (see `sagaz-tiering console-token`) or proxy, or listen on 127.0.0.1",
            )
        if self.viewer_token_hash is not None and self.viewer_token_hash == self.operator_token_hash:
            yield ("operator_token_hash",), "is that of the viewer's token; whoever may look could change things"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
