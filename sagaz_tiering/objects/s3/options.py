"""Where an S3 bucket is and how it is to be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from sagaz_tiering.config.tiers import Checksums, ColdSettings, Encryption
from sagaz_tiering.drivers.aws import AwsConfig
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.objects.arguments import MAX_KEY_BYTES, check_key

MIB = 1024 * 1024
MAX_PARTS = 10_000
"""S3's limit on the parts of one upload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingNames:
    """What the one who set the options calls them, for hints."""

    place: str = "tiers.cold"
    bucket: str = "tiers.cold.url"
    region: str = "tiers.cold.region"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """Everything an `S3ObjectStore` is opened with: a section of the configuration, and what is no setting. In bytes.

    `endpoint_url` None means AWS. Credentials None means the SDK's own search (environment, profile, instance
    role). `checksums` "auto" is "when_supported" on AWS and "when_required" elsewhere: many S3-compatible
    stores refuse the SDK's default checksums; without them the SDK signs the hash of the body instead, which
    they all check. `request_timeout` is the deadline of one request with its body and its retries; an upload
    in parts has one per part. `trusts` is a file of certificate authorities (None: the SDK's), `sdk_config` a botocore
    Config whose settings go before ours.

    Raises ConfigError for a combination that S3 has no meaning for, InvalidKey for an unusable prefix.
    """

    bucket: str
    prefix: str = ""
    settings: ColdSettings
    session_token: str | None = field(default=None, repr=False)
    multipart_part: int = 16 * MIB
    max_connections: int = 16
    attempts: int = 5
    backoff: timedelta = timedelta(milliseconds=200)
    names: SettingNames = SettingNames()
    trusts: str | None = None
    sdk_config: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", self.prefix.strip("/"))
        if self.prefix:
            check_key(self.prefix, room=MAX_KEY_BYTES // 2)
        if not self.bucket:
            raise ConfigError("no bucket is named", hint="use a URL like s3://bucket/prefix")
        settings = self.settings
        if settings.kms_key_id and settings.encryption != Encryption.SSE_KMS:
            raise ConfigError(
                f"a KMS key is given, but encryption is {settings.encryption}", hint="set encryption: sse-kms"
            )
        if (settings.access_key_id is None) != (settings.secret_access_key is None) or (
            self.session_token is not None and settings.access_key_id is None
        ):
            raise ConfigError("half of a credential is given", hint="give both access key id and secret, or neither")
        least = {name: getattr(self, name) for name in ("multipart_part", "max_connections", "attempts")}
        for name, value in {"multipart_threshold": settings.multipart_threshold, **least}.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")

    @property
    def sends_checksums(self) -> bool:
        """Whether requests carry a checksum header of their own."""
        if self.settings.checksums == Checksums.AUTO:
            return self.settings.endpoint_url is None
        return self.settings.checksums == Checksums.WHEN_SUPPORTED

    def encryption_arguments(self) -> dict[str, Any]:
        """Arguments of every request that creates an object."""
        if self.settings.encryption == Encryption.NONE:
            return {}
        if self.settings.encryption == Encryption.SSE_S3:
            return {"ServerSideEncryption": "AES256"}
        key = {"SSEKMSKeyId": self.settings.kms_key_id} if self.settings.kms_key_id else {}
        return {"ServerSideEncryption": "aws:kms", **key}

    def credentials(self) -> dict[str, str | None]:
        """Arguments of an SDK session; secrets in the clear."""
        keys = {name: getattr(self.settings, name) for name in ("access_key_id", "secret_access_key")}
        found = {name: key.get_secret_value() if key else None for name, key in keys.items()}
        return {**found, "session_token": self.session_token}

    def part_size(self, total: int) -> int:
        """Bytes per part of an upload of `total` bytes, so that it stays within S3's number of parts."""
        return max(self.multipart_part, -(-total // MAX_PARTS))

    def client_config(self) -> AwsConfig:
        """The SDK's settings: deadlines and retries are ours, so its own are wide and off."""
        checksums: Literal["when_supported", "when_required"]
        checksums = "when_supported" if self.sends_checksums else "when_required"
        ours = AwsConfig(
            connect_timeout=self.settings.connect_timeout.total_seconds(),
            read_timeout=self.settings.request_timeout.total_seconds(),
            max_pool_connections=self.max_connections,
            # The SDK's retry quota runs dry in a storm of 503s and then fails calls that never were retried.
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            # S3-compatible stores rarely answer under BUCKET.HOST names.
            s3={"addressing_style": "path" if self.settings.endpoint_url else "auto"},
            signature_version="s3v4",
        )
        return ours if self.sdk_config is None else ours.merge(self.sdk_config)
