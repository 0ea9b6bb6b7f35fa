"""A master key in AWS KMS: it never leaves there; each wrapping and unwrapping is one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final
from uuid import UUID

from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from sagaz_tiering.config.sections import EncryptionSettings
from sagaz_tiering.drivers.aws import NO_PROFILE_HINT, AwsConfig, NoIdentity, aws_session, tls_fault
from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.errors import MasterKeyUnavailable
from sagaz_tiering.keys.master import WrappedKey

SCHEME: Final = "kms:"


_DEADLINE_S: Final = 15.0


class Kms:
    """`MasterKeys` in KMS. Wrappings carry the ARN, so an alias may come to name another key.

    Of the settings those that begin with `kms_`. Credentials are the SDK's (environment, profile, instance role).
    """

    def __init__(self, settings: EncryptionSettings) -> None:
        self._settings = settings
        self._opening = asyncio.Lock()
        self._resources = AsyncExitStack()
        self._client: Any = None
        self._home = HomeLoop(self)
        self._current: str | None = None

    async def current_id(self) -> str:
        """`kms:` and the ARN; asks KMS once."""
        if self._current is None:
            answer = await self._ask("DescribeKey", {"KeyId": self._settings.kms_key_id})
            self._current = SCHEME + str(answer["KeyMetadata"]["Arn"])
        return self._current

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        """One Encrypt."""
        answer = await self._ask(
            "Encrypt",
            {"KeyId": self._settings.kms_key_id, "Plaintext": secret, "EncryptionContext": _context(key_id, saga_id)},
        )
        return WrappedKey(
            key_id=key_id,
            saga_id=saga_id,
            wrapped=bytes(answer["CiphertextBlob"]),
            master_id=SCHEME + str(answer["KeyId"]),
        )

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """One Decrypt."""
        answer = await self._ask(
            "Decrypt",
            {
                "KeyId": wrapped.master_id.removeprefix(SCHEME),
                "CiphertextBlob": wrapped.wrapped,
                "EncryptionContext": _context(wrapped.key_id, wrapped.saga_id),
            },
        )
        return bytes(answer["Plaintext"])

    async def close(self) -> None:
        """Close the client."""
        self._client = self._current = None
        await self._home.close(self._resources.aclose)

    async def _ask(self, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        settings = self._settings
        place = settings.kms_endpoint_url or settings.kms_region or "AWS"
        where = f"KMS {operation} with key {settings.kms_key_id} at {place}"
        try:
            async with asyncio.timeout(_DEADLINE_S):
                client = await self._opened()
                call: Callable[..., Awaitable[Mapping[str, Any]]] = getattr(client, _METHODS[operation])
                return await call(**arguments)
        except ClientError as exc:
            code = str(exc.response["Error"].get("Code", ""))
            said = str(exc.response["Error"].get("Message", ""))
            raise MasterKeyUnavailable(f"{where}: {code} {said}".rstrip(), hint=_hint(code, operation)) from exc
        except NoIdentity as exc:
            raise MasterKeyUnavailable(f"{where}: {exc}", hint=exc.hint) from exc
        except (BotoCoreError, OSError, TimeoutError, ValueError) as exc:
            if (fault := tls_fault(exc, place)) is not None:
                raise MasterKeyUnavailable(f"{where}: {fault.what}", hint=fault.hint) from exc
            if isinstance(exc, ProfileNotFound):
                raise MasterKeyUnavailable(f"{where}: {exc}", hint=NO_PROFILE_HINT) from exc
            reason = str(exc) or f"no answer within {_DEADLINE_S:g} s"
            raise MasterKeyUnavailable(
                f"{where}: {reason}", hint="check encryption.kms_*, the AWS credentials and that KMS is reachable"
            ) from exc

    async def _opened(self) -> Any:
        self._home.check()
        async with self._opening:
            if self._client is None:
                session = aws_session(region=self._settings.kms_region)
                config = AwsConfig(
                    connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 3, "mode": "standard"}
                )
                self._client = await self._resources.enter_async_context(
                    session.client("kms", endpoint_url=self._settings.kms_endpoint_url, config=config)
                )
            return self._client


_METHODS: Final = {"DescribeKey": "describe_key", "Encrypt": "encrypt", "Decrypt": "decrypt"}


def _context(key_id: UUID, saga_id: UUID) -> dict[str, str]:
    """Authenticated with the wrapping, and in CloudTrail: who opened which saga, and when."""
    return {"sagaz-tiering:key": str(key_id), "sagaz-tiering:saga": str(saga_id)}


def _hint(code: str, operation: str) -> str:
    if code == "DisabledException":
        return "the KMS key is disabled: enable it (aws kms enable-key --key-id ID); nothing is lost meanwhile"
    if code in ("NotFoundException", "KMSInvalidStateException", "KeyUnavailableException"):
        return "check that the KMS key exists in that region, is enabled and is not about to be deleted"
    if code in ("InvalidCiphertextException", "IncorrectKeyException"):
        return "another KMS key wrapped it, or the row was altered: compare with a backup"
    if code in ("AccessDeniedException", "AccessDenied"):
        return "grant kms:DescribeKey, kms:Encrypt and kms:Decrypt on that key, in this identity's policy and the key's"
    if code in ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException"):
        return "KMS does not know the access key: check the AWS credentials of this process"
    if code in ("ExpiredTokenException", "ExpiredToken"):
        return "renew the session's AWS credentials"
    return f"KMS could not do {operation}; it is asked again with the next call"
