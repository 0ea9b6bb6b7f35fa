"""The AWS SDK's clients, made so that TLS means the right server: its certificate must name the host that was asked.

aiobotocore takes botocore's TLS context, which leaves the host's name to urllib3; but it is aiohttp that connects, and
so nobody looks. Through a proxy it looks at no certificate at all.
"""

from __future__ import annotations

import ssl
from typing import Any

import aioboto3  # type: ignore[import-untyped]  # ships no types
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session


class _CheckedSession(AIOHTTPSession):
    """What botocore trusts (AWS_CA_BUNDLE, `ca_bundle` of the profile, else its own list), and the host's name."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = super()._get_ssl_context()  # type: ignore[misc]  # not in the stubs
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        return context

    def _setup_proxy_ssl_context(self, proxy_url: str) -> ssl.SSLContext:
        context: ssl.SSLContext | None = super()._setup_proxy_ssl_context(proxy_url)  # type: ignore[misc]  # as above
        return context or self._get_ssl_context()


class AwsConfig(AioConfig):
    """A client's settings, as the SDK's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(http_session_cls=_CheckedSession, **options)

    def merge(self, other_config: Any) -> Any:
        """These with those of another laid over them; the SDK's own would lose the class of the session."""
        merged: Any = super().merge(other_config)
        merged.http_session_cls = _CheckedSession
        return merged


def aws_session(**credentials: str | None) -> Any:
    """A session of the SDK, every client of which (those that fetch credentials too) knows the server that it asks.

    `credentials` as `aioboto3.Session` takes them; without, the SDK's own search.
    """
    core = get_session()
    core.set_default_client_config(AwsConfig())
    return aioboto3.Session(botocore_session=core, **credentials)


def refused_certificate(exc: BaseException) -> ssl.SSLCertVerificationError | None:
    """Why the certificate of a server was refused, if that is behind an error of the SDK."""
    cause: object = getattr(exc, "kwargs", {}).get("error")
    found = getattr(cause, "certificate_error", cause)
    return found if isinstance(found, ssl.SSLCertVerificationError) else None


CERTIFICATE_HINT = (
    "someone else may be answering there: if not, the endpoint must have a name of the certificate, and a private "
    "certificate authority belongs into AWS_CA_BUNDLE"
)
