"""The AWS SDK's clients, made so that TLS means the right server: its certificate must name the host that was asked.

aiobotocore takes botocore's TLS context, which leaves the host's name to urllib3; but it is aiohttp that connects, and
so nobody looks. Through a proxy it looks at no certificate at all.
"""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

import aioboto3  # type: ignore[import-untyped]  # ships no types
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.loaders import create_loader

from sagaz_tiering.drivers.aws.credentials import LateCredentials


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


def aws_session(
    *,
    region: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
) -> Any:
    """A session of the SDK, every client of which (those that fetch credentials too) knows the server that it asks.

    Without an access key its clients find credentials as the SDK does, but when they need them (`aws_credentials`).
    """
    core = _new_core()
    if access_key_id is None:
        late = LateCredentials(_new_core, region)
        core.register_component("credential_provider", late)
        core.register("after-call", late.heard)
    return aioboto3.Session(
        botocore_session=core,
        region_name=region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        aws_session_token=session_token,
    )


def _new_core() -> Any:
    core = get_session()
    # Reading and parsing the descriptions of a service takes longer than all else that a client needs.
    core.lazy_register_component("data_loader", lambda: _descriptions(core.get_config_variable("data_path")))
    core.set_default_client_config(AwsConfig())
    return core


@cache
def _descriptions(data_path: str | None) -> Any:
    """What the SDK knows of each service, read once in a process."""
    return create_loader(data_path)


def refused_certificate(exc: BaseException) -> ssl.SSLCertVerificationError | None:
    """Why the certificate of a server was refused, if that is behind an error of the SDK."""
    cause = _tls_failure(exc)
    return cause if isinstance(cause, ssl.SSLCertVerificationError) else None


def speaks_no_tls(exc: BaseException) -> bool:
    """Whether a server that was asked over TLS answered without, or with none that this host knows."""
    cause = _tls_failure(exc)
    return isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) in _NO_TLS


_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
NO_TLS_HINT = "a server without TLS answers there: is the endpoint http://, or does TLS have another port?"


def _tls_failure(exc: BaseException) -> object:
    cause: object = getattr(exc, "kwargs", {}).get("error") or exc
    return getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None) or cause


NO_PROFILE_HINT = "correct or unset AWS_PROFILE, or add the profile to ~/.aws/config (or what AWS_CONFIG_FILE names)"
CERTIFICATE_HINT = (
    "someone else may be answering there: if not, the endpoint must have a name of the certificate, and a private "
    "certificate authority belongs into AWS_CA_BUNDLE"
)
