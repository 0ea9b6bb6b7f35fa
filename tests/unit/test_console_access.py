"""Who may enter the console: tokens, sessions, a proxy, and the tricks that are refused."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from support.console import OPEN, OPERATOR, VIEWER, hashed, with_tokens

from sagaz_tiering.config.sections import ConsoleSettings, ProxySettings
from sagaz_tiering.console.access import COOKIE, Access, Role, TooManyTries


class _Peer:
    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._address, 40_000) if name == "peername" else default


def request(address: str = "192.0.2.7", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("GET", "/", headers={"Host": "console.test", **named}, transport=_Peer(address))


class Seconds:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def logged_in(access: Access, token: str, name: str = "") -> Any:
    session = access.log_in(request(), token, name)
    assert session is not None
    return request(Cookie=f"{COOKIE}={session}")


def test_tokens_make_viewers_and_operators(seconds: Seconds) -> None:
    """The hash in the configuration lets its token in, as what it is; another lets nobody in."""
    access = Access(with_tokens(), seconds)
    assert access.visitor(request()) is None
    assert access.log_in(request(), "guess", "") is None
    viewer, operator = (access.visitor(logged_in(access, token, "ann")) for token in (VIEWER, OPERATOR))
    assert (viewer and viewer.role, operator and operator.role) == (Role.VIEWER, Role.OPERATOR)
    assert operator is not None
    assert operator.name == "ann"
    program = access.visitor(request(Authorization=f"Bearer {OPERATOR}"))
    assert program is not None
    assert (program.role, program.csrf) == (Role.OPERATOR, None)
    assert access.visitor(request(Authorization=f"Bearer {hashed(OPERATOR)}")) is None  # the hash is no token


def test_session_ends_when_idle_and_in_any_case(seconds: Seconds) -> None:
    """Half an hour without a request, or twelve hours with them."""
    access = Access(with_tokens(), seconds)
    cookie = logged_in(access, VIEWER)
    for _ in range(23):
        seconds.now += 1_799
        assert access.visitor(cookie) is not None
    seconds.now += 1_801
    assert access.visitor(cookie) is None
    cookie = logged_in(access, VIEWER)
    for _ in range(24):
        seconds.now += 1_799
        assert access.visitor(cookie) is not None
    seconds.now += 100
    assert access.visitor(cookie) is None


def test_login_makes_a_new_session(seconds: Seconds) -> None:
    """A session that somebody planted, or had before, is not the one that is logged in (session fixation)."""
    access = Access(with_tokens(), seconds)
    planted = request(Cookie=f"{COOKIE}=planted")
    session = access.log_in(planted, VIEWER, "")
    assert session not in (None, "planted")
    assert access.visitor(planted) is None
    known = request(Cookie=f"{COOKIE}={session}")
    again = access.log_in(known, OPERATOR, "")
    assert again != session
    assert access.visitor(known) is None


def test_guessing_is_slowed_down_for_its_address_alone(seconds: Seconds) -> None:
    """After five wrong tokens each further wrong one is told to wait, twice as long each time; a right one never."""
    access = Access(with_tokens(), seconds)
    for _ in range(5):
        assert access.log_in(request(), "guess", "") is None
    with pytest.raises(TooManyTries):
        access.log_in(request(), "guess", "")
    with pytest.raises(TooManyTries):
        access.visitor(request(Authorization="Bearer guess"))
    assert access.log_in(request("192.0.2.8"), "guess", "") is None
    assert access.log_in(request(), VIEWER, "") is not None  # whoever has it is not kept out by who guesses
    assert access.visitor(request(Authorization=f"Bearer {OPERATOR}")) is not None
    waits = []
    for _ in range(12):
        with pytest.raises(TooManyTries) as found:
            access.log_in(request(), "guess", "")
        waits.append(found.value.wait_s)
        seconds.now += found.value.wait_s
        assert access.log_in(request(), "guess", "") is None
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_forms_of_elsewhere_change_nothing(seconds: Seconds) -> None:
    """What changes something carries the session's own text and comes from our origin."""
    access = Access(with_tokens(), seconds)
    cookie = logged_in(access, OPERATOR)
    operator, other = access.visitor(cookie), access.visitor(logged_in(access, OPERATOR))
    assert operator is not None
    assert operator.csrf is not None
    assert other is not None
    assert access.why_not_ours(cookie, operator, operator.csrf) is None
    assert access.why_not_ours(cookie, operator, "")
    assert access.why_not_ours(cookie, operator, str(other.csrf))
    elsewhere = request(Origin="https://evil.test")
    assert access.why_not_ours(elsewhere, operator, operator.csrf)
    for headers in ({"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}, {"Origin": "http://[bad"}):
        assert access.why_elsewhere(request(**headers))
    for origin in (
        "null",
        "",
        "http://console.test:81",
        "https://console.test.evil.test",
        "http://console.test@evil.test",
        "ftp://console.test",
    ):
        assert access.why_elsewhere(request(Origin=origin)), origin
    for origin in ("http://console.test", "http://CONSOLE.test:80", "https://console.test"):
        assert access.why_elsewhere(request(Origin=origin)) is None, origin


def test_form_through_a_proxy_that_changes_the_host_is_ours_where_the_browser_or_the_proxy_says_so(
    seconds: Seconds,
) -> None:
    """What nginx does unless it is told otherwise: the refusal says what to tell it."""
    proxy = ProxySettings(addresses=(ip_network("10.0.0.0/24"),), operators=("ann",))
    behind = Access(ConsoleSettings(enabled=True, host="0.0.0.0", proxy=proxy), seconds)
    asked_for = {"Host": "127.0.0.1:9465", "Origin": "https://console.test:8443"}
    reason = behind.why_elsewhere(request(**asked_for))
    assert reason is not None
    for part in ("https://console.test:8443", "127.0.0.1:9465", "proxy_set_header Host $http_host;"):
        assert part in reason
    assert behind.why_elsewhere(request(**asked_for, Sec_Fetch_Site="same-origin")) is None
    forwarded = {**asked_for, "X_Forwarded_Host": "console.test:8443, inner"}
    assert behind.why_elsewhere(request("10.0.0.9", **forwarded)) is None
    assert behind.why_elsewhere(request("192.0.2.7", **forwarded))  # anybody may say that
    assert behind.why_elsewhere(request("10.0.0.9", **{**forwarded, "Origin": "https://evil.test"}))


def test_form_of_another_scheme_is_from_elsewhere_where_ours_is_known(seconds: Seconds) -> None:
    """A page over http can be anybody's on the way; a proxy that is named says how the browser asked, nobody else."""
    proxy = ProxySettings(addresses=(ip_network("10.0.0.0/24"),), operators=("ann",))
    behind = Access(ConsoleSettings(enabled=True, host="0.0.0.0", proxy=proxy), seconds)
    for address, said, origin, is_ours in (
        ("10.0.0.9", "https", "https://console.test", True),
        ("10.0.0.9", "https, http", "https://console.test", True),
        ("10.0.0.9", "https", "http://console.test", False),
        ("10.0.0.9", "https", "http://console.test:443", False),
        ("10.0.0.9", "http", "http://console.test", True),
        ("10.0.0.9", "http", "https://console.test", False),
        ("10.0.0.9", "", "https://console.test", True),  # it does not say
        ("192.0.2.7", "https", "http://console.test", True),
        ("192.0.2.7", "https", "https://console.test", False),  # anybody may say that
    ):
        reason = behind.why_elsewhere(request(address, Origin=origin, X_Forwarded_Proto=said))
        assert (reason is None) == is_ours, (address, said, origin)
    reason = behind.why_elsewhere(request("10.0.0.9", Origin="http://console.test", X_Forwarded_Proto="https"))
    assert "from http://console.test, and the console was asked for as https://console.test;" in str(reason)


def test_proxy_is_believed_only_from_its_addresses(seconds: Seconds) -> None:
    """The header of anybody else is nothing; a header that comes twice is nothing either."""
    proxy = ProxySettings(addresses=(ip_network("10.0.0.0/24"),), operators=("ann",))
    access = Access(ConsoleSettings(enabled=True, host="0.0.0.0", proxy=proxy), seconds)
    ann = access.visitor(request("10.0.0.9", X_Forwarded_User="ann"))
    bob = access.visitor(request("::ffff:10.0.0.9", X_Forwarded_User="bob"))
    assert ann is not None
    assert bob is not None
    assert (ann.name, ann.role, bob.role) == ("ann", Role.OPERATOR, Role.VIEWER)
    assert access.visitor(request("10.0.1.9", X_Forwarded_User="ann")) is None
    assert access.visitor(request("10.0.0.9")) is None
    twice = make_mocked_request(
        "GET", "/", headers=[("Host", "h"), ("X-Forwarded-User", "bob"), ("X-Forwarded-User", "ann")],
        transport=_Peer("10.0.0.9"),
    )  # fmt: skip
    assert access.visitor(twice) is None
    assert access.is_secure(request("10.0.0.9", X_Forwarded_Proto="https"))
    assert not access.is_secure(request("10.0.1.9", X_Forwarded_Proto="https"))


def test_open_console_is_for_this_machine_and_changes_nothing(seconds: Seconds) -> None:
    """Without tokens: whoever is on the machine may look; a page whose name leads here may not (DNS rebinding)."""
    access = Access(OPEN, seconds)
    visitor = access.visitor(request())
    assert visitor is not None
    assert not visitor.may_change
    for host, known in (
        ("localhost:9465", True),
        ("127.0.0.1", True),
        ("[::1]:80", True),
        ("evil.test", False),
        ("[", False),
    ):
        asked = make_mocked_request("GET", "/", headers={"Host": host})
        assert access.is_known_host(asked) is known
    for host in ("0.0.0.0", "10.0.0.1", "console.internal"):
        with pytest.raises(ValueError, match="anybody could look"):
            ConsoleSettings(enabled=True, host=host)
    with pytest.raises(ValueError, match="could change things"):
        ConsoleSettings(viewer_token_hash=hashed("x"), operator_token_hash=hashed("x"))
