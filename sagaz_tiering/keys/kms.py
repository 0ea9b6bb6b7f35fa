"""A master key in AWS KMS: it never leaves there; each wrapping and unwrapping is one request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
_RETRIES: Final = {"total_max_attempts": 3, "mode": "standard"}


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
            answer = await self._ask("DescribeKey", KeyId=self._settings.kms_key_id)
            self._current = SCHEME + str(answer["KeyMetadata"]["Arn"])
        return self._current

    async def wrap(self, secret: bytes, key_id: UUID, saga_id: UUID) -> WrappedKey:
        """One Encrypt."""
        bound = _context(key_id, saga_id)
        answer = await self._ask("Encrypt", KeyId=self._settings.kms_key_id, Plaintext=secret, EncryptionContext=bound)
        wrapped, master_id = bytes(answer["CiphertextBlob"]), SCHEME + str(answer["KeyId"])
        return WrappedKey(key_id=key_id, saga_id=saga_id, wrapped=wrapped, master_id=master_id)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """One Decrypt."""
        bound, master_id = _context(wrapped.key_id, wrapped.saga_id), wrapped.master_id.removeprefix(SCHEME)
        answer = await self._ask("Decrypt", KeyId=master_id, CiphertextBlob=wrapped.wrapped, EncryptionContext=bound)
        return bytes(answer["Plaintext"])

    async def close(self) -> None:
        """Close the client."""
        self._client = self._current = None
        await self._home.close(self._resources.aclose)

    async def _ask(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        settings = self._settings
        place = settings.kms_endpoint_url or settings.kms_region or "AWS"
        where = f"KMS {operation} with key {settings.kms_key_id} at {place}"
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return dict(await getattr(await self._opened(), _METHODS[operation])(**arguments))
        except (ClientError, NoIdentity, BotoCoreError, OSError, TimeoutError, ValueError) as exc:
            reason, hint = _told(exc, operation, place)
            raise MasterKeyUnavailable(f"{where}: {reason}", hint=hint) from exc

    async def _opened(self) -> Any:
        self._home.check()
        async with self._opening:
            if self._client is None:
                config = AwsConfig(connect_timeout=5, read_timeout=10, retries=_RETRIES)
                client = aws_session(region=self._settings.kms_region).client(
                    "kms", endpoint_url=self._settings.kms_endpoint_url, config=config
                )
                self._client = await self._resources.enter_async_context(client)
            return self._client


_METHODS: Final = {"DescribeKey": "describe_key", "Encrypt": "encrypt", "Decrypt": "decrypt"}


def _context(key_id: UUID, saga_id: UUID) -> dict[str, str]:
    """Authenticated with the wrapping, and in CloudTrail: who opened which saga, and when."""
    return {"sagaz-tiering:key": str(key_id), "sagaz-tiering:saga": str(saga_id)}


def _told(exc: Exception, operation: str, place: str) -> tuple[str, str]:
    """What went wrong, and what to do."""
    if isinstance(exc, ClientError):
        code, said = (str(exc.response["Error"].get(name, "")) for name in ("Code", "Message"))
        hint = _HINTS.get(code, f"KMS could not do {operation}; it is asked again with the next call")
        return f"{code} {said}".rstrip(), hint
    if isinstance(exc, NoIdentity):
        return str(exc), exc.hint
    if (fault := tls_fault(exc, place)) is not None:
        return fault.what, fault.hint
    if isinstance(exc, ProfileNotFound):
        return str(exc), NO_PROFILE_HINT
    reason = str(exc) or f"no answer within {_DEADLINE_S:g} s"
    return reason, "check encryption.kms_*, the AWS credentials and that KMS is reachable"


_DISABLED = "the KMS key is disabled: enable it (aws kms enable-key --key-id ID); nothing is lost meanwhile"
_NOT_THERE = "check that the KMS key exists in that region, is enabled and is not about to be deleted"
_OTHER_KEY = "another KMS key wrapped it, or the row was altered: compare with a backup"
_NO_GRANT = "grant kms:DescribeKey, kms:Encrypt and kms:Decrypt on that key, in this identity's policy and the key's"
_UNKNOWN = "KMS does not know the access key: check the AWS credentials of this process"
_HINTS: Final = {
    "DisabledException": _DISABLED,
    **dict.fromkeys(("NotFoundException", "KMSInvalidStateException", "KeyUnavailableException"), _NOT_THERE),
    **dict.fromkeys(("InvalidCiphertextException", "IncorrectKeyException"), _OTHER_KEY),
    **dict.fromkeys(("AccessDeniedException", "AccessDenied"), _NO_GRANT),
    **dict.fromkeys(("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException"), _UNKNOWN),
    **dict.fromkeys(("ExpiredTokenException", "ExpiredToken"), "renew the session's AWS credentials"),
}
