"""`S3SnapshotStorage`: snapshots as objects of their own in a bucket; layout and keys in `keys`.

There is no index object that writers would have to share: the listing of a saga is the LIST of its entries, empty
objects whose keys hold all that is needed to order, expire and filter. Any number of writers and of snapshots; no
method lists more of the bucket than what it is asked for.

Save (`changing`), each step done before the next:
    1. PUT the entries                a crash leaves entries without a body: reads pass them over
    2. PUT the body, all or nothing   from here on the snapshot is saved, and listed
    3. remove the replaced entries    a crash leaves untrue entries: reads see that the body is of another save
Of two saves of one snapshot at once S3 keeps the later body, and its entries are there.

Delete, clean up, expire (`changing`):
    1. DELETE the body                from here on the snapshot is gone; expiry only if it is still the one that ended
    2. DELETE the entries             a crash leaves entries without a body

Reads (`reading`): by id one GET; latest and at-time one LIST of a few keys and one GET; a list one LIST and its
GETs side by side. Archived bodies (GLACIER, DEEP_ARCHIVE, also by the bucket's own lifecycle rules) raise
SnapshotArchived; entries are never read, so listing works in every class.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import encode_value
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.config.tiers import Checksums, ColdSettings, Encryption
from sagaz_tiering.config.urls import secret_or_none
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.errors import ConfigError, CorruptRecord, InvalidKey
from sagaz_tiering.objects.s3.options import S3Options, SettingNames
from sagaz_tiering.objects.s3.store import S3RecordStore
from sagaz_tiering.snapshot import SagaSnapshot, as_uuid
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import as_duration, check_level
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.s3 import changing, reading, replays
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import OpenBucket
from sagaz_tiering.storage.standalone import ReplayRecord, StandaloneStorage
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

T = TypeVar("T")

BUCKET_VARIABLE = "SAGAZ_TIERING_S3_BUCKET"
COUNTED = 10_000
"""Snapshots that a health check counts at most: ten LIST requests."""

_MIB = 1024 * 1024
_PART = 8 * _MIB
_NEEDS = "S3SnapshotStorage"
_SDK_NAMES: Final = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "config": "sdk_config",
    "verify": "trusts",
}
_SDK_NEEDLESS: Final = ("api_version",)
_SDK_KNOWN: Final = ("endpoint_url", *_SDK_NAMES, "use_ssl", *_SDK_NEEDLESS)
_ALIASES = {"GLACIER_DEEP_ARCHIVE": StorageClass.DEEP_ARCHIVE}


class S3SnapshotStorage(AnyLoop, StandaloneStorage):
    """Snapshots and replay records in one bucket, under one prefix. Connects when first used, again after `close`.

    `bucket_name` None takes SAGAZ_TIERING_S3_BUCKET from the environment. `storage_class` is for snapshots saved from
    now on: STANDARD, STANDARD_IA, ONEZONE_IA, GLACIER_IR, GLACIER or DEEP_ARCHIVE (GLACIER_DEEP_ARCHIVE). Encryption
    is SSE-S3, with `kms_key_id` SSE-KMS. Compression may change at any time over existing data. `endpoint_url` is for
    what is not AWS; `checksums` "auto" sends such a store none of the SDK's own. Without an access key the SDK looks
    for one (environment, profile, role). Above `multipart_threshold` bytes a snapshot is sent in parts. One request
    takes at most `request_timeout`; callers beyond `max_connections` wait. `s3_kwargs` are arguments of the SDK's
    client: aws_access_key_id, aws_secret_access_key, aws_session_token, verify, config, use_ssl.

    It needs s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket; in a bucket that keeps versions also
    s3:GetBucketVersioning, s3:ListBucketVersions and s3:DeleteObjectVersion, since what is removed is removed whole.

    Raises ConfigError for what cannot be meant. Every method raises
    ColdTierUnavailable where S3 cannot be asked, BucketUnusable where it does not let us in.
    """

    _kind = "s3"

    def __init__(
        self,
        bucket_name: str | None = None,
        region_name: str = "us-east-1",
        prefix: str = "snapshots/",
        enable_compression: bool = True,
        compression_level: int = 3,
        enable_encryption: bool = True,
        storage_class: str = "STANDARD",
        *,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        kms_key_id: str | None = None,
        checksums: Literal["auto", "when_supported", "when_required"] = "auto",
        multipart_threshold: int = 8 * _MIB,
        max_connections: int = 32,
        request_timeout: timedelta | float = timedelta(seconds=60),
        clock: Clock | None = None,
        on_unsupported: OnUnsupported = "refuse",
        **s3_kwargs: Any,
    ) -> None:
        super().__init__()
        self.region_name, self.prefix = region_name, prefix
        self.enable_compression, self.compression_level = enable_compression, compression_level
        self.enable_encryption, self.storage_class, self.s3_kwargs = enable_encryption, storage_class, s3_kwargs
        keys = {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
        given: dict[str, Any] = keys | _sdk_options(s3_kwargs, endpoint_url)
        bucket = bucket_name or os.environ.get(BUCKET_VARIABLE, "")
        settings = ColdSettings.model_construct(
            url=f"s3://{bucket}/{prefix}",
            region=region_name,
            encryption=_encryption(enable_encryption, kms_key_id),
            kms_key_id=kms_key_id,
            endpoint_url=endpoint_url,
            access_key_id=secret_or_none(given.pop("access_key_id")),
            secret_access_key=secret_or_none(given.pop("secret_access_key")),
            checksums=_checksums(checksums),
            multipart_threshold=multipart_threshold,
            request_timeout=as_duration(request_timeout, "request_timeout"),
        )
        self._options = _options(
            bucket=bucket, prefix=prefix, settings=settings, max_connections=max_connections, **given
        )
        self.bucket_name = self._options.bucket
        self._class = _storage_class(storage_class)
        if enable_compression:
            check_level(compression_level)
        self._level = compression_level if enable_compression else None
        self._clock: Clock = clock or SystemClock()
        self._texts = texts_for(on_unsupported, self._kind)
        self._renew()

    def _renew(self) -> None:
        self._opening = asyncio.Lock()
        self._open: OpenBucket | None = None

    async def _disconnect(self) -> None:
        async with self._opening:
            opened, self._open = self._open, None
            if opened is not None:
                await opened.store.close()
        self._opening = asyncio.Lock()  # the next call may come from another loop

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many. Lists only what is."""
        return await changing.remove_expired(await self._opened())

    async def snapshot_ids(self, saga_id: UUID | str) -> AsyncIterator[UUID]:
        """Every live snapshot of a saga, oldest first, without reading it: archived ones too."""
        saga = as_uuid(saga_id, "saga_id")
        async with aclosing(self._walked(lambda bucket: reading.ids_of(bucket, saga))) as ids:
            async for snapshot_id in ids:
                yield snapshot_id

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of; asks no server."""
        options = self._options
        return {
            "storage_type": self._kind,
            "bucket_name": options.bucket,
            "region_name": options.settings.region,
            "prefix": options.prefix,
            "endpoint_url": options.settings.endpoint_url,
            "storage_class": self._class.value,
            "compression_enabled": self._level is not None,
            "compression_level": self._level,
            "encryption_enabled": options.settings.encryption != Encryption.NONE,
            "encryption": options.settings.encryption.value,
        }

    async def _save(self, snapshot: SagaSnapshot) -> None:
        saved_us = to_micros(self._clock.now())
        meta, value = await encode_value(snapshot, saved_us=saved_us, level=self._level, texts=self._texts)
        await changing.save(await self._opened(), meta, value, self._class)

    async def _get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        return await reading.one(await self._opened(), snapshot_id)

    async def _newest(self, saga_id: UUID, step_name: str | None, not_after_us: int | None) -> SagaSnapshot | None:
        bucket, gaps = await self._opened(), Gaps(self._kind)
        found = await reading.newest(bucket, saga_id, 1, gaps, not_after_us=not_after_us, step_name=step_name)
        gaps.check(found)
        return found[0] if found else None

    async def _list(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[SagaSnapshot]:
        return await reading.newest(await self._opened(), saga_id, wanted, gaps)

    async def _delete(self, snapshot_id: UUID) -> bool:
        return await changing.remove_one(await self._opened(), snapshot_id)

    async def _delete_saga(self, saga_id: UUID) -> int:
        return await changing.remove_saga(await self._opened(), saga_id)

    def _sagas(self, after: UUID | None) -> AsyncGenerator[UUID, None]:
        return self._walked(lambda bucket: reading.saga_ids(bucket, after))

    def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        return self._walked(lambda bucket: reading.snapshots(bucket, reading.entries_of(bucket, saga_id), gaps))

    def _walk_all(self, after: UUID | None, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        """One that is saved anew meanwhile with another `created_at`, or under another saga, is missed where its new
        place is behind or was listed before; a walk that began after that save has it.
        """
        return self._walked(lambda bucket: reading.snapshots(bucket, reading.entries_of_all(bucket, after), gaps))

    async def _walked(self, walk: Callable[[OpenBucket], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        async with aclosing(walk(await self._opened())) as found:
            async for each in found:
                yield each

    async def _save_replay(self, record: ReplayRecord) -> None:
        await replays.save((await self._opened()).store, record)

    async def _replay(self, replay_id: UUID) -> ReplayRecord | None:
        return await replays.get((await self._opened()).store, replay_id)

    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        return await replays.of_saga((await self._opened()).store, saga_id, wanted, gaps)

    def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        return self._walked(lambda bucket: replays.ascending(bucket.store, after))

    async def _status(self, details: dict[str, Any]) -> str:
        details["url"] = f"s3://{self._options.bucket}/{self._options.prefix}"
        await (await self._opened()).store.check()
        return "healthy"

    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        """At most COUNTED snapshots; `details` says whether that was all."""
        count = size = 0
        details["counts"] = "exact"
        async with aclosing((await self._opened()).store.list(s3_keys.DATA)) as infos:
            async for info in infos:
                if count == COUNTED:
                    details["counts"] = "lower bound"
                    break
                count, size = count + 1, size + info.size
        return count, size

    async def _opened(self) -> OpenBucket:
        """The one open client, made by whoever comes first."""
        if self._open is None:
            async with self._opening:
                if self._open is None:
                    store = await S3RecordStore.open(self._options)
                    prices = PriceList.load(self._options.settings.region)
                    self._open = OpenBucket(store=store, clock=self._clock, prices=prices)
        return self._open

    async def _get_s3_client(self) -> S3Client:
        """The SDK's client, for requests of your own."""
        return (await self._opened()).store.calls.client


def _options(**values: Any) -> S3Options:
    """Raises ConfigError."""
    if not values["bucket"]:
        raise ConfigError(f"{_NEEDS} has no bucket", hint=f"give bucket_name, or set {BUCKET_VARIABLE}")
    names = SettingNames(place=f"the options of {_NEEDS}", bucket="bucket_name", region="region_name")
    try:
        return S3Options(**values, multipart_part=_PART, names=names)
    except InvalidKey as exc:
        raise ConfigError(f"prefix {values['prefix']!r} cannot be used: {exc}", hint="use one like snapshots/") from exc


def _encryption(enabled: bool, kms_key_id: str | None) -> Encryption:
    if not enabled:
        return Encryption.NONE  # a KMS key beside it is refused by S3Options
    return Encryption.SSE_KMS if kms_key_id else Encryption.SSE_S3


def _checksums(when: str) -> Checksums:
    if when not in tuple(Checksums):
        raise ConfigError(f"checksums cannot be {when!r:.80}", hint=f"use one of {', '.join(Checksums)}")
    return Checksums(when)


def _storage_class(name: str) -> StorageClass:
    known = {**StorageClass.__members__, **_ALIASES}
    if name not in known:
        raise ConfigError(f"there is no storage class {name!r}", hint=f"use one of {', '.join(known)}")
    return known[name]


def _sdk_options(given: Mapping[str, Any], endpoint_url: str | None) -> dict[str, Any]:
    """Arguments of the SDK's client, as sagaz's storage hands them on, as fields of `S3Options`.

    Raises ConfigError for what the storage does not know or cannot work with.
    """
    options = {name: value for name, value in given.items() if value is not None and name not in _SDK_NEEDLESS}
    if options.pop("use_ssl", True) is False and not (endpoint_url or "").startswith("http://"):
        raise ConfigError(
            "use_ssl=False would send credentials and data in the clear", hint="name an http:// endpoint_url"
        )
    if options.get("verify") is True:
        del options["verify"]
    elif options.get("verify") is False:
        raise ConfigError(
            "verify=False cannot be used: anybody could answer in place of the bucket",
            hint="give the file of your certificate authority, as verify or in AWS_CA_BUNDLE",
        )
    for name in options:
        if name not in _SDK_NAMES:
            raise ConfigError(
                f"S3SnapshotStorage does not know the option {name!r:.80}",
                hint=f"beside its own it takes these of the SDK's client: {', '.join(_SDK_KNOWN)}",
            )
    return {_SDK_NAMES[name]: value for name, value in options.items()}
