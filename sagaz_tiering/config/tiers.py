"""The `tiers` section of the configuration: Redis, the durable copy in PostgreSQL, and the object store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from sagaz_tiering.config.schema import DEFAULT_TEXT, Location, StrictModel
from sagaz_tiering.config.units import ByteSize, Count, Duration, format_size
from sagaz_tiering.config.urls import EMBEDDED, ColdUrl, EndpointUrl, PostgresUrl, RedisUrl, file_path

MIN_MULTIPART = 5 * 2**20
MAX_OBJECT = 5 * 2**30
"""S3 takes parts of at least 5 MiB, and moves an object to another class in one request up to 5 GiB."""

ZstdLevel = Annotated[int, Field(ge=1, le=22)]


class HotSettings(StrictModel):
    """Redis, where snapshots are written and read while they are young."""

    url: RedisUrl
    """`redis://HOST:6379/0`, `rediss://` for TLS, `unix://SOCKET`, `redis+sentinel://HOST,HOST/NAME`, or `embedded`."""
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] = "sagaz"
    """First part of every key, so that several applications can share a server."""
    socket_timeout: Duration = timedelta(seconds=2)
    """Deadline of connecting and of each command."""
    max_connections: Count = 64
    """Connections of one process; more callers wait for one."""
    # Measured on 10 KB order snapshots: 2,862 bytes a value at level 1, 2,878 at 3, which takes half as long again;
    # with a dictionary 2,110 and 2,130. Level -1 saves a few µs more and makes values of 3,030 bytes.
    compression_level: ZstdLevel | None = 1
    """zstd level of new values, `null` for none; values already stored stay readable whatever this is."""


class DurableSettings(StrictModel):
    """The second copy in PostgreSQL, kept until the snapshot is in a pack."""

    url: PostgresUrl = Field(json_schema_extra={DEFAULT_TEXT: "`catalog.url`"})
    """Must be the catalog's database, since copies and their locations change in one transaction."""


class Encryption(StrEnum):
    """How S3 encrypts what is stored."""

    SSE_S3 = "sse-s3"
    SSE_KMS = "sse-kms"
    NONE = "none"


class Checksums(StrEnum):
    """When requests carry checksums that the store verifies."""

    AUTO = "auto"
    WHEN_SUPPORTED = "when_supported"
    WHEN_REQUIRED = "when_required"


class PackSettings(StrictModel):
    """How snapshots are packed into objects."""

    target: ByteSize = 32 * 2**20
    """Size at which a pack is sealed."""
    max_frame: ByteSize = 4 * 2**20
    """Uncompressed size at which one saga's snapshots are split over several frames, the unit of one read."""
    # Measured on 10 KB order snapshots: bodies in frames take 611 bytes at level 1, 608 at 3 and 587 at 9, for 8, 11
    # and 29 µs a snapshot; with a dictionary 438, 442 and 436.
    level: ZstdLevel = 1
    """zstd level of frames."""

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.target > MAX_OBJECT:
            yield ("target",), f"at most {format_size(MAX_OBJECT)}: S3 moves larger objects only in parts"
        if self.max_frame > self.target:
            yield ("max_frame",), f"larger than pack.target, {format_size(self.target)}; make it at most that"


class ColdSettings(StrictModel):
    """The object store that keeps packs: S3 or anything that speaks its protocol, or a directory."""

    url: ColdUrl
    """`s3://BUCKET/PREFIX`, or `file:///DIRECTORY` (relative paths start at the configuration file)."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] | None = None
    """AWS region; also chooses the price list."""
    endpoint_url: EndpointUrl | None = None
    """Address of an S3-compatible store, or `embedded`; absent: AWS."""
    encryption: Encryption = Encryption.SSE_S3
    """Encryption at rest that is asked of the store."""
    kms_key_id: str | None = None
    """Key for `sse-kms`; absent: the account's default key."""
    access_key_id: SecretStr | None = None
    """Access key; absent: the usual AWS sources (environment, profile, instance role)."""
    secret_access_key: SecretStr | None = None
    """Secret of the access key; belongs into the environment."""
    checksums: Checksums = Checksums.AUTO
    """`auto`: `when_supported` on AWS, `when_required` with an `endpoint_url`; the others are the AWS SDK's modes."""
    request_timeout: Duration = timedelta(seconds=60)
    """Deadline of each request to the store."""
    connect_timeout: Duration = timedelta(seconds=5)
    """Deadline of connecting to the store."""
    multipart_threshold: ByteSize = 64 * 2**20
    """Larger objects are uploaded in parts."""
    pack: PackSettings = PackSettings()
    """How snapshots are packed."""

    @property
    def is_directory(self) -> bool:
        """Whether packs are files in a directory instead of objects in a bucket."""
        return self.url.startswith("file://")

    @property
    def directory(self) -> Path:
        """The directory of a `file://` tier."""
        return file_path(self.url)

    @property
    def is_embedded(self) -> bool:
        """Whether the bucket is on the embedded S3 server."""
        return self.endpoint_url == EMBEDDED

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.kms_key_id is not None and self.encryption is not Encryption.SSE_KMS:
            yield ("kms_key_id",), "is only used with encryption: sse-kms; set that, or remove the key"
        if self.access_key_id is not None and self.secret_access_key is None:
            yield ("access_key_id",), "needs secret_access_key beside it"
        if self.secret_access_key is not None and self.access_key_id is None:
            yield ("secret_access_key",), "needs access_key_id beside it"
        if not MIN_MULTIPART <= self.multipart_threshold <= MAX_OBJECT:
            between = f"{format_size(MIN_MULTIPART)} and {format_size(MAX_OBJECT)}"
            yield ("multipart_threshold",), f"must be between {between}, the limits of S3"


class TierSettings(StrictModel):
    """Where snapshots live, hottest first."""

    hot: HotSettings
    """Redis."""
    durable: DurableSettings | None = None
    """The copy in PostgreSQL, there unless it is `null`, which every policy with `durability: hot` allows."""
    cold: ColdSettings
    """The object store."""
