"""The AWS SDK's clients, made so that TLS means the right server: its certificate must name the host that was asked.

aiobotocore takes botocore's TLS context, which leaves the host's name to urllib3; but it is aiohttp that connects, and
so nobody looks. Through a proxy it looks at no certificate at all.

Credentials may come late: they are looked for when a request is signed, and again as long as there are none. The SDK
looks once, when a client is made, and remembers that it found nothing. Pod Identity, the ECS agent, STS, a
`credential_process` or somebody's SSO login may be there a minute later.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import aioboto3  # type: ignore[import-untyped]  # ships no types
import aiohttp
from aiobotocore import credentials as sdk_credentials
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore import exceptions as sdk
from botocore.loaders import create_loader

NO_PROFILE_HINT = "correct or unset AWS_PROFILE, or add the profile to ~/.aws/config (or what AWS_CONFIG_FILE names)"
_CERTIFICATE_HINT: Final = (
    "someone else may be answering there: if not, the endpoint must have a name of the certificate, and a private "
    "certificate authority belongs into AWS_CA_BUNDLE"
)
_NO_TLS: Final = {
    *("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"),
}
_NO_TLS_HINT: Final = "a server without TLS answers there: is the endpoint http://, or does TLS have another port?"

_SEARCH_S: Final = 10.0
"""What signing one request waits for credentials: the SDK sets no limit to a `credential_process`."""

_PAUSE_S: Final = 1.0
"""After a search that failed those who waited for it, and who come right after, are told the same."""

_LATE: Final = (sdk.BotoCoreError, sdk.ClientError, aiohttp.ClientError, OSError, ValueError, KeyError, TypeError)
_NO_LONGER: Final = {
    *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
    *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"),
}
_MAYBE_NO_LONGER: Final = {"400", "401", "403"}
"""All that an answer to HEAD says."""


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

    Without an access key its clients find credentials as the SDK does, but when they need them (`LateCredentials`).
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


class TlsFault(NamedTuple):
    """What is wrong with the TLS of a server, and what to do; `permanent`: its certificate was refused."""

    what: str
    hint: str
    permanent: bool


def tls_fault(exc: BaseException, server: str) -> TlsFault | None:
    """What is behind an error of the SDK, if it is that: a refused certificate, or an answer without TLS."""
    cause: object = getattr(exc, "kwargs", {}).get("error") or exc
    cause = getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None) or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message or cause
        return TlsFault(f"the TLS certificate of {server} is refused: {why}", _CERTIFICATE_HINT, permanent=True)
    if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) in _NO_TLS:
        return TlsFault(f"{server} speaks no TLS ({exc})", _NO_TLS_HINT, permanent=False)
    return None


class NoIdentity(sdk.BotoCoreError):
    """AWS cannot be told who asks: `str()` says why, `hint` what to do. Asking again may help."""

    fmt = "no AWS credentials: {why}"

    def __init__(self, *, why: str, hint: str) -> None:
        super().__init__(why=why)
        self.hint = hint


class LateCredentials(sdk_credentials.AioCredentials):
    """What the SDK finds for `core` in environment, profile and role, once it can be found."""

    def __init__(self, new_core: Callable[[], Any], region: str | None) -> None:
        """`new_core` makes a session of the SDK, which reads files anew; `region` is where STS is asked."""
        super().__init__("", "", method="late")
        self._new_core, self._region = new_core, region
        self._found: sdk_credentials.AioCredentials | sdk_credentials.AioRefreshableCredentials | None = None
        self._one_search = asyncio.Lock()
        self._failed: tuple[float, NoIdentity] | None = None

    async def load_credentials(self) -> LateCredentials:
        """Itself, at once: this is also the SDK's provider of credentials."""
        return self

    async def get_account_id(self) -> str | None:  # type: ignore[override]  # the stubs are those of the sync base
        """Unknown: no request of ours has it in its address."""
        return None

    async def get_frozen_credentials(self) -> Any:  # type: ignore[override]  # as above
        """What signs one request. Raises NoIdentity, within `_SEARCH_S`."""
        async with self._one_search:
            now = asyncio.get_running_loop().time()
            if self._failed is not None and now < self._failed[0] + _PAUSE_S:
                before = self._failed[1]
                raise NoIdentity(why=str(before.kwargs["why"]), hint=before.hint) from before
            try:
                async with asyncio.timeout(_SEARCH_S):
                    if self._found is None:
                        self._found = await self._search()
                    frozen = await self._found.get_frozen_credentials()
            except _LATE as exc:
                why, hint = _explained(exc)
                self._failed = asyncio.get_running_loop().time(), NoIdentity(why=why, hint=hint)
                raise self._failed[1] from exc
        self._failed = None
        return frozen

    def heard(self, parsed: Mapping[str, Any], **_: Any) -> None:
        """Look again before the next request if an answer says that these are no good any more: they get rotated."""
        code = str(parsed.get("Error", {}).get("Code", "")) if isinstance(parsed, Mapping) else ""
        renew_themselves = isinstance(self._found, sdk_credentials.AioRefreshableCredentials)
        if code in _NO_LONGER or (code in _MAYBE_NO_LONGER and not renew_themselves):
            self._found = None

    async def _search(self) -> Any:
        core = self._new_core()
        resolver = sdk_credentials.create_credential_resolver(core, region_name=self._region)
        profile = core.get_config_variable("profile") or "default"
        by_process = sdk_credentials.AioProcessProvider(profile, lambda: core.full_config, popen=_Process.start)
        resolver.insert_before(by_process.METHOD, by_process)
        found = await resolver.load_credentials()
        if found is None:
            raise sdk.NoCredentialsError
        return found


class _Process:
    """A `credential_process` that ends when nobody waits for it any more; the SDK's goes on for as long as it likes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *command: str, **options: Any) -> _Process:
        return cls(await asyncio.create_subprocess_exec(*command, **options))

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        try:
            return await self._process.communicate()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()


_PROVIDERS: Final = {
    "custom-process": "the profile's credential_process failed: run its command by hand, as the user of this process",
    "container-role": "the agent of ECS or EKS Pod Identity does not answer: is it running, and the association made?",
    "assume-role-with-web-identity": "check the service account's role annotation and its projected token",
    "assume-role": "check that the source's credentials may assume the role",
    "sso": "run `aws sso login` with this profile; a daemon is better off with a role of its own",
}


def _explained(exc: Exception) -> tuple[str, str]:
    """What is wrong, and what to do."""
    if isinstance(exc, TimeoutError):
        return (
            f"none came within {_SEARCH_S:g} s",
            "a credential_process, the instance's or container's agent, or STS hangs: see whether it answers",
        )
    if isinstance(exc, sdk.ClientError):
        return _refused(exc)
    if isinstance(exc, sdk.SSOError | sdk.TokenRetrievalError | sdk.NoAuthTokenError):
        return f"SSO: {exc}", _PROVIDERS["sso"]
    if isinstance(exc, sdk.NoCredentialsError):
        return (
            "nothing found in environment, profile, container or instance role",
            "give an access key in the environment, or run under a profile or a role (IRSA, Pod Identity, ECS, EC2)",
        )
    if isinstance(exc, sdk.PartialCredentialsError | sdk.InvalidConfigError | sdk.ProfileNotFound):
        return str(exc), "correct the profile in ~/.aws/config and ~/.aws/credentials, or AWS_PROFILE"
    if isinstance(exc, sdk.CredentialRetrievalError):
        return str(exc).strip(), _PROVIDERS.get(str(exc.kwargs.get("provider")), _ANY)
    if isinstance(exc, FileNotFoundError):
        return (
            f"there is no {exc.filename or exc}",
            "is it the token that AWS_WEB_IDENTITY_TOKEN_FILE names, or the command of a credential_process?",
        )
    return f"{type(exc).__name__}: {exc}".strip(), _ANY


_ANY: Final = "check what AWS_… variables, profile and role of this process name, and that it can be reached"


def _refused(exc: sdk.ClientError) -> tuple[str, str]:
    """What STS (or the portal of SSO) answered: it, not S3 or KMS."""
    error, operation = exc.response["Error"], exc.operation_name
    code = str(error.get("Code", ""))
    why = f"{operation}: {code} {error.get('Message', '')}".rstrip()
    if int(exc.response["ResponseMetadata"].get("HTTPStatusCode", 0)) >= 500 or "Throttl" in code:
        return why, "STS itself fails; it is asked again"
    if code in ("ExpiredTokenException", "ExpiredToken", "InvalidIdentityToken", "IDPCommunicationError"):
        return why, (
            "the token that proves who asks has expired or its issuer is unknown: is the projected token renewed, and "
            "is the cluster's OIDC provider registered in IAM?"
        )
    if code == "AccessDenied":
        return why, "let the role's trust policy name this service account, instance or source role"
    return why, _ANY
