"""The answer of a read that meets archived objects: which, in what class, and how to get them back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sagaz_tiering.errors import SnapshotArchived
from sagaz_tiering.objects.s3.options import S3Options
from sagaz_tiering.storage.s3.bodies import Body, OpenBucket

_RESTORE_DAYS = 7


def promise(bucket: OpenBucket, bodies: Sequence[Body]) -> SnapshotArchived:
    """The error that names all of these snapshots, with a command that works as it is for the first."""
    infos = [body.found.info for body in bodies]
    storage_class, size = infos[0].storage_class, sum(info.size for info in infos) // len(infos)
    return SnapshotArchived(
        storage_class=storage_class.value,
        snapshot_ids=[body.snapshot_id for body in bodies],
        object_keys=[info.key for info in infos],
        options=bucket.prices.restore_options(storage_class, size, len(infos), days=_RESTORE_DAYS),
        how_to_restore=_how_to_restore(bucket.store.calls.options, [info.key for info in infos]),
    )


def _how_to_restore(options: S3Options, keys: Sequence[str]) -> str:
    more = f" (and so for {len(keys) - 1} more objects)" if len(keys) > 1 else ""
    endpoint = f" --endpoint-url {shlex.quote(options.settings.endpoint_url)}" if options.settings.endpoint_url else ""
    key = f"{options.prefix}/{keys[0]}".lstrip("/")
    return (
        f"aws s3api restore-object{endpoint} --bucket {options.bucket} --key {shlex.quote(key)}"
        f" --restore-request 'Days={_RESTORE_DAYS},GlacierJobParameters={{Tier=Standard}}'{more};"
        " reads work once it is readable"
    )
