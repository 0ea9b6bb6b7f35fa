"""Credentials of AWS that may come late: looked for when a request is signed, and again as long as there are none.

The SDK looks once, when a client is made, and remembers that it found nothing. Pod Identity, the ECS agent, STS, a
`credential_process` or somebody's SSO login may be there a minute later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
from aiobotocore.credentials import (
    AioCredentials,
    AioProcessProvider,
    AioRefreshableCredentials,
    create_credential_resolver,
)
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    InvalidConfigError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

_SEARCH_S: Final = 10.0
"""What signing one request waits for credentials: the SDK sets no limit to a `credential_process`."""

_PAUSE_S: Final = 1.0
"""After a search that failed those who waited for it, and who come right after, are told the same."""

_LATE: Final = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, ValueError, KeyError, TypeError)
_NO_LONGER: Final = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
_MAYBE_NO_LONGER: Final = {"400", "401", "403"}
"""All that an answer to HEAD says."""


class NoIdentity(BotoCoreError):
    """AWS cannot be told who asks: `str()` says why, `hint` what to do. Asking again may help."""

    fmt = "no AWS credentials: {why}"

    def __init__(self, *, why: str, hint: str) -> None:
        super().__init__(why=why)
        self.hint = hint


class LateCredentials(AioCredentials):
    """What the SDK finds for `core` in environment, profile and role, once it can be found."""

    def __init__(self, new_core: Callable[[], Any], region: str | None) -> None:
        """`new_core` makes a session of the SDK, which reads files anew; `region` is where STS is asked."""
        super().__init__("", "", method="late")
        self._new_core, self._region = new_core, region
        self._found: AioCredentials | AioRefreshableCredentials | None = None
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
        renew_themselves = isinstance(self._found, AioRefreshableCredentials)
        if code in _NO_LONGER or (code in _MAYBE_NO_LONGER and not renew_themselves):
            self._found = None

    async def _search(self) -> Any:
        core = self._new_core()
        resolver = create_credential_resolver(core, region_name=self._region)
        name, profile = AioProcessProvider.METHOD, core.get_config_variable("profile") or "default"
        resolver.insert_before(name, AioProcessProvider(profile, lambda: core.full_config, popen=_Process.start))
        found = await resolver.load_credentials()
        if found is None:
            raise NoCredentialsError
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
    if isinstance(exc, ClientError):
        return _refused(exc)
    if isinstance(exc, SSOError | TokenRetrievalError | NoAuthTokenError):
        return f"SSO: {exc}", _PROVIDERS["sso"]
    if isinstance(exc, NoCredentialsError):
        return (
            "nothing found in environment, profile, container or instance role",
            "give an access key in the environment, or run under a profile or a role (IRSA, Pod Identity, ECS, EC2)",
        )
    if isinstance(exc, PartialCredentialsError | InvalidConfigError | ProfileNotFound):
        return str(exc), "correct the profile in ~/.aws/config and ~/.aws/credentials, or AWS_PROFILE"
    if isinstance(exc, CredentialRetrievalError):
        return str(exc).strip(), _PROVIDERS.get(str(exc.kwargs.get("provider")), _ANY)
    if isinstance(exc, FileNotFoundError):
        return (
            f"there is no {exc.filename or exc}",
            "is it the token that AWS_WEB_IDENTITY_TOKEN_FILE names, or the command of a credential_process?",
        )
    return f"{type(exc).__name__}: {exc}".strip(), _ANY


_ANY: Final = "check what AWS_… variables, profile and role of this process name, and that it can be reached"


def _refused(exc: ClientError) -> tuple[str, str]:
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
