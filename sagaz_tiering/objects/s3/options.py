"""Where an S3 bucket is and how it is to be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from sagaz_tiering.drivers.aws.client import AwsConfig
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
    """Everything an `S3ObjectStore` is opened with. Sizes in bytes.

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
    region: str | None = None
    endpoint_url: str | None = None
    encryption: Literal["sse-s3", "sse-kms", "none"] = "sse-s3"
    kms_key_id: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    checksums: Literal["auto", "when_supported", "when_required"] = "auto"
    connect_timeout: timedelta = timedelta(seconds=5)
    request_timeout: timedelta = timedelta(seconds=60)
    multipart_threshold: int = 64 * MIB
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
        if self.kms_key_id and self.encryption != "sse-kms":
            raise ConfigError(
                f"a KMS key is given, but encryption is {self.encryption}", hint="set encryption: sse-kms"
            )
        if (self.access_key_id is None) != (self.secret_access_key is None) or (
            self.session_token is not None and self.access_key_id is None
        ):
            raise ConfigError("half of a credential is given", hint="give both access key id and secret, or neither")
        for name in ("multipart_threshold", "multipart_part", "max_connections", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def sends_checksums(self) -> bool:
        """Whether requests carry a checksum header of their own."""
        if self.checksums == "auto":
            return self.endpoint_url is None
        return self.checksums == "when_supported"

    def encryption_arguments(self) -> dict[str, Any]:
        """Arguments of every request that creates an object."""
        if self.encryption == "none":
            return {}
        if self.encryption == "sse-s3":
            return {"ServerSideEncryption": "AES256"}
        key = {"SSEKMSKeyId": self.kms_key_id} if self.kms_key_id else {}
        return {"ServerSideEncryption": "aws:kms", **key}

    def part_size(self, total: int) -> int:
        """Bytes per part of an upload of `total` bytes, so that it stays within S3's number of parts."""
        return max(self.multipart_part, -(-total // MAX_PARTS))

    def client_config(self) -> AwsConfig:
        """The SDK's settings: deadlines and retries are ours, so its own are wide and off."""
        checksums: Literal["when_supported", "when_required"]
        checksums = "when_supported" if self.sends_checksums else "when_required"
        ours = AwsConfig(
            connect_timeout=self.connect_timeout.total_seconds(),
            read_timeout=self.request_timeout.total_seconds(),
            max_pool_connections=self.max_connections,
            # The SDK's retry quota runs dry in a storm of 503s and then fails calls that never were retried.
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            # S3-compatible stores rarely answer under BUCKET.HOST names.
            s3={"addressing_style": "path" if self.endpoint_url else "auto"},
            signature_version="s3v4",
        )
        return ours if self.sdk_config is None else ours.merge(self.sdk_config)
