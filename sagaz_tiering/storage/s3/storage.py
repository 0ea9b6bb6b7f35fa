"""`S3SnapshotStorage`: snapshots as objects of their own in a bucket; layout and keys in `s3_keys`.

There is no index object that writers would have to share: the listing of a saga is the LIST of its entries, empty
objects whose keys hold all that is needed to order, expire and filter. Any number of writers and of snapshots; no
method lists more of the bucket than what it is asked for.

Save (`s3_saving`), each step done before the next:
    1. PUT the entries                a crash leaves entries without a body: reads pass them over
    2. PUT the body, all or nothing   from here on the snapshot is saved, and listed
    3. remove the replaced entries    a crash leaves untrue entries: reads see that the body is of another save
Of two saves of one snapshot at once S3 keeps the later body, and its entries are there.

Delete, clean up, expire (`s3_removing`):
    1. DELETE the body                from here on the snapshot is gone; expiry only if it is still the one that ended
    2. DELETE the entries             a crash leaves entries without a body

Reads (`s3_reading`): by id one GET; latest and at-time one LIST of a few keys and one GET; a list one LIST and its
GETs side by side. Archived bodies (GLACIER, DEEP_ARCHIVE, also by the bucket's own lifecycle rules) raise
SnapshotArchived; entries are never read, so listing works in every class.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import encode_value
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.config.tiers import Checksums, ColdSettings, Encryption
from sagaz_tiering.config.urls import secret_or_none
from sagaz_tiering.costs import PriceList
from sagaz_tiering.errors import ConfigError, InvalidKey, SagazTieringError
from sagaz_tiering.objects.s3.options import S3Options, SettingNames
from sagaz_tiering.objects.s3.records import S3RecordStore
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot, as_utc, as_uuid
from sagaz_tiering.storage.answers import text_ids_find_nothing
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import Health, as_duration, checked_limit
from sagaz_tiering.storage.reporting import measured_read, reported_save
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.reading import S3Reader
from sagaz_tiering.storage.s3.removing import S3Remover
from sagaz_tiering.storage.s3.replays import S3Replays
from sagaz_tiering.storage.s3.saving import S3Saver
from sagaz_tiering.storage.s3.sdk_options import sdk_options
from sagaz_tiering.storage.s3.walking import S3Walker
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

BUCKET_VARIABLE = "SAGAZ_TIERING_S3_BUCKET"
COUNTED = 10_000
"""Snapshots that a health check counts at most: ten LIST requests."""

_MIB = 1024 * 1024
_PART = 8 * _MIB
_NEEDS = "S3SnapshotStorage"
_ALIASES = {"GLACIER_DEEP_ARCHIVE": StorageClass.DEEP_ARCHIVE}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """What works on one open client."""

    store: S3RecordStore
    reader: S3Reader
    saver: S3Saver
    remover: S3Remover
    walker: S3Walker
    replays: S3Replays


@text_ids_find_nothing
class S3SnapshotStorage(AnyLoop):
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
        given: dict[str, Any] = keys | sdk_options(s3_kwargs, endpoint_url)
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
        self._level = _level(compression_level) if enable_compression else None
        self._clock: Clock = clock or SystemClock()
        self._texts = texts_for(on_unsupported, "s3")
        self._renew()

    def _renew(self) -> None:
        self._opening = asyncio.Lock()
        self._open: _Open | None = None

    async def _disconnect(self) -> None:
        async with self._opening:
            opened, self._open = self._open, None
            if opened is not None:
                await opened.store.close()
        self._opening = asyncio.Lock()  # the next call may come from another loop

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store a snapshot (ours or any object with sagaz's attributes); an id saved before is replaced.

        After an error it may be there wholly, also later, or not at all. Raises InvalidSnapshot where it would not
        come back equal.
        """
        with reported_save(snapshot, "s3"):
            saved_us = to_micros(self._clock.now())
            ours = SagaSnapshot.of(snapshot)
            meta, value = await encode_value(ours, saved_us=saved_us, level=self._level, texts=self._texts)
            await (await self._opened()).saver.save(meta, value)

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot by id. Raises CorruptRecord and SnapshotArchived, as every read that has one for an answer."""
        wanted = as_uuid(snapshot_id, "snapshot_id")
        with measured_read("s3"):
            return await (await self._opened()).reader.get(wanted)

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest snapshot of a saga; with `before_step`, the newest whose `step_name` equals it."""
        return await self._newest(saga_id, step_name=before_step)

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live snapshot created at or before `timestamp` (aware; raises NaiveTimestamp)."""
        return await self._newest(saga_id, not_after_us=to_micros(as_utc(timestamp, "timestamp")))

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit` snapshots of a saga, newest first. Raises ValueError for a negative limit.

        Raises SnapshotArchived if any of them is archived (it names all that are), CorruptRecord if one cannot be read;
        the `readable` of either has the others.
        """
        wanted, saga = checked_limit(limit), as_uuid(saga_id, "saga_id")
        with measured_read("s3"):
            return await (await self._opened()).reader.newest(saga, wanted)

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one, expired, archived or unreadable ones too; False if there was none."""
        wanted = as_uuid(snapshot_id, "snapshot_id")
        return await (await self._opened()).remover.one(wanted)

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga; how many there were."""
        wanted = as_uuid(saga_id, "saga_id")
        return await (await self._opened()).remover.saga(wanted)

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many. Lists only what is."""
        return await (await self._opened()).remover.expired()

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        start = None if after is None else as_uuid(after, "after")
        async with aclosing((await self._opened()).walker.saga_ids(start)) as sagas:
            async for saga_id in sagas:
                yield saga_id

    async def snapshot_ids(self, saga_id: UUID | str) -> AsyncIterator[UUID]:
        """Every live snapshot of a saga, oldest first, without reading it: archived ones too."""
        saga = as_uuid(saga_id, "saga_id")
        async with aclosing((await self._opened()).walker.ids_of(saga)) as ids:
            async for snapshot_id in ids:
                yield snapshot_id

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga behind `after`, by id.

        One that is saved anew meanwhile with another `created_at`, or under another saga, is missed where its new place
        is behind or was listed before; a walk that began after that save has it. Raises SnapshotArchived where it comes
        to archived bytes, CorruptRecord at its end for what it could not read.
        """
        start = None if after is None else as_uuid(after, "after")
        saga = None if saga_id is None else as_uuid(saga_id, "saga_id")
        opened = await self._opened()
        entries = opened.walker.entries_of_all(start) if saga is None else opened.walker.entries_of(saga)
        async with aclosing(entries):
            async for snapshot in opened.reader.snapshots(entries):
                yield snapshot

    async def save_replay_log(self, replay_result: ReplayResult) -> None:
        """Insert or replace the record of a replay (ours or sagaz's)."""
        await (await self._opened()).replays.save(replay_result)

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """The record of a replay in the shape of `ReplayResult.to_dict`, or None."""
        wanted = as_uuid(replay_id, "replay_id")
        return await (await self._opened()).replays.get(wanted)

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Records of replays of a saga, newest first. Raises ValueError for a negative limit."""
        wanted, saga = checked_limit(limit), as_uuid(original_saga_id, "original_saga_id")
        return await (await self._opened()).replays.of_saga(saga, wanted)

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on."""
        start = None if after is None else as_uuid(after, "after")
        async for record in (await self._opened()).replays.all(start):
            yield record

    async def health_check(self) -> Health:
        """Whether the bucket answers; counts at most COUNTED snapshots, `details` says whether that was all."""
        began = time.monotonic()
        details: dict[str, Any] = {"url": f"s3://{self._options.bucket}/{self._options.prefix}"}
        count = size = 0
        try:
            store = (await self._opened()).store
            await store.check()
            latency_ms = (time.monotonic() - began) * 1000
            details["counts"] = "exact"
            async with aclosing(store.list(s3_keys.DATA)) as infos:
                async for info in infos:
                    if count == COUNTED:
                        details["counts"] = "lower bound"
                        break
                    count, size = count + 1, size + info.size
        except SagazTieringError as exc:
            failure = {"error": str(exc), "hint": exc.hint}
            return Health(
                status="unhealthy",
                latency_ms=(time.monotonic() - began) * 1000,
                snapshot_count=0,
                total_size_bytes=0,
                details=details | failure,
            )
        return Health(
            status="healthy", latency_ms=latency_ms, snapshot_count=count, total_size_bytes=size, details=details
        )

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of; asks no server."""
        options = self._options
        return {
            "storage_type": "s3",
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

    async def _newest(
        self, saga_id: UUID | str, *, not_after_us: int | None = None, step_name: str | None = None
    ) -> SagaSnapshot | None:
        saga = as_uuid(saga_id, "saga_id")
        with measured_read("s3"):
            found = await (await self._opened()).reader.newest(saga, 1, not_after_us=not_after_us, step_name=step_name)
            return found[0] if found else None

    async def _opened(self) -> _Open:
        """The one open client, made by whoever comes first."""
        if self._open is None:
            async with self._opening:
                if self._open is None:
                    self._open = await self._make()
        return self._open

    async def _get_s3_client(self) -> S3Client:
        """The SDK's client, for requests of your own."""
        return (await self._opened()).store.sdk_client

    async def _make(self) -> _Open:
        store = await S3RecordStore.open(self._options)
        prices = PriceList.load(self._options.settings.region)
        reader = S3Reader(store, self._options, self._clock, prices)
        return _Open(
            store=store,
            reader=reader,
            saver=S3Saver(store, reader, self._class),
            remover=S3Remover(store, reader),
            walker=S3Walker(reader),
            replays=S3Replays(store),
        )


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


def _level(level: int) -> int:
    if type(level) is not int or not 1 <= level <= 22:
        raise ConfigError(f"compression_level must be from 1 to 22, not {level!r}", hint="3 is a good one")
    return level
