"""What sagaz's `S3SnapshotStorage` wrote: the snapshot objects, by LIST. Its index objects are not looked at.

sagaz keeps one JSON index per saga, read and rewritten by every save: concurrent saves lose each other's entries, and
of a saga's snapshots it holds the newest 1,000.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.config.tiers import ColdSettings
from sagaz_tiering.config.urls import secret_or_none
from sagaz_tiering.errors import ColdTierUnavailable, CorruptPack, ObjectArchived, ObjectNotFound
from sagaz_tiering.objects.s3.options import S3Options, SettingNames
from sagaz_tiering.objects.s3.store import S3ObjectStore
from sagaz_tiering.sagaz_engine.imports.scanned import ScannedRecord, ScannedSource

_CONNECTIONS: Final = 32
_LISTED: Final = 256
_SUFFIXES: Final = (".json", ".json.zst")


class SagazS3Source(ScannedSource):
    """Every snapshot and replay record that sagaz left in a bucket under its `prefix` (taken to the letter).

    Each object is asked for twice. Of two objects of one snapshot (compressed and not) the one written last counts.
    What is in an archive class and not restored is among `problems`: restore it in S3, then read again.

    Raises ColdTierUnavailable where S3 cannot be asked, BucketUnusable where it refuses us.
    """

    kind = "sagaz+s3"

    def __init__(
        self,
        bucket_name: str,
        prefix: str = "snapshots/",
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock=clock)
        settings = ColdSettings.model_construct(
            url=f"s3://{bucket_name}",
            region=region_name or "us-east-1",  # sagaz's own default
            endpoint_url=endpoint_url,
            access_key_id=secret_or_none(access_key_id),
            secret_access_key=secret_or_none(secret_access_key),
        )
        self._options = S3Options(
            bucket=bucket_name,
            settings=settings,
            max_connections=_CONNECTIONS,
            names=SettingNames(place="bucket_name", bucket="bucket_name", region="region_name"),
        )
        self._prefix = prefix
        self._store: S3ObjectStore | None = None

    async def _connect(self) -> None:
        self._store = await S3ObjectStore.open(self._options)

    async def _disconnect(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def _listed(self) -> AsyncIterator[list[tuple[ScannedRecord, int]]]:
        for folder in ("snapshot/", "replay/"):
            page = list[tuple[ScannedRecord, int]]()
            async for info in self._opened_store().list(self._prefix + folder):
                if info.key.endswith(_SUFFIXES):
                    written, is_replay = to_micros(info.modified_at), folder == "replay/"
                    found = ScannedRecord(info.key.encode(), None, written=written, is_replay=is_replay)
                    page.append((found, info.size))
                if len(page) == _LISTED:
                    yield page
                    page = []
            yield page

    async def _loaded(self, listed: Sequence[ScannedRecord]) -> list[ScannedRecord]:
        return await asyncio.gather(*map(self._get, listed))

    async def _get(self, stored: ScannedRecord) -> ScannedRecord:
        try:
            return stored._replace(data=await self._opened_store().get(stored.key.decode()))
        except ObjectNotFound:
            return stored
        except ObjectArchived as exc:
            return stored._replace(problem=f"archived ({exc}): restore the object in S3, then read again")
        except CorruptPack as exc:  # S3's own checksum says so
            return stored._replace(problem=str(exc))

    def _opened_store(self) -> S3ObjectStore:
        if self._store is None:
            raise ColdTierUnavailable(
                f"s3://{self._options.bucket}: the source was closed while it was read", hint="close it at the end"
            )
        return self._store
