"""Who moves old snapshots to cheaper classes: policies (tiered storage) or S3's lifecycle rules (one object each).

    python examples/lifecycle.py [--redis URL] [--postgres URL] [--s3 ENDPOINT --bucket NAME]

`lifecycle.yaml` has the policies, `lifecycle.json` the rules, `iam-policy.json` what the code needs to be allowed.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aioboto3  # type: ignore[import-untyped]  # ships no types
from botocore.exceptions import ParamValidationError
from places import Places, open_places, tiered_config

from sagaz_tiering import S3SnapshotStorage, SagaSnapshot
from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import SnapshotArchived
from sagaz_tiering.jobs import run_job

HERE = Path(__file__).parent
PHOTO = os.urandom(2 * 2**20)
"""Makes a pack large enough that moving it saves more than the requests cost."""
AS_DOCUMENTED = {
    "Rules": [
        {"Id": "ArchiveOldSnapshots", "Status": "Enabled", "Transitions": [{"Days": 90, "StorageClass": "GLACIER"}]}
    ]
}


@asynccontextmanager
async def s3_client(places: Places) -> AsyncIterator[Any]:
    """A plain SDK client: the bucket's administrator."""
    s3 = places.s3
    keys = {"aws_access_key_id": s3.get("access_key_id"), "aws_secret_access_key": s3.get("secret_access_key")}
    async with aioboto3.Session(**keys, region_name="us-east-1").client(
        "s3", endpoint_url=s3["endpoint_url"]
    ) as client:
        yield client


async def move_by_rule(client: Any, bucket: str, prefix: str) -> None:
    """What a lifecycle rule does at night, behind everybody's back."""
    for entry in (await client.list_objects_v2(Bucket=bucket, Prefix=prefix)).get("Contents", []):
        source = {"Bucket": bucket, "Key": entry["Key"]}
        await client.copy_object(**source, CopySource=source, StorageClass="GLACIER")


def snapshot(saga_id: UUID, created_at: datetime) -> SagaSnapshot:
    """An old one."""
    return SagaSnapshot.create(
        saga_id=saga_id,
        saga_name="orders",
        step_name="charge_card",
        step_index=1,
        status="failed",
        context={"amount": 49.9, "photo": PHOTO},
        completed_steps=["reserve_stock"],
        created_at=created_at,
    )


async def rules_on_single_objects(places: Places, client: Any) -> None:
    """Rules work with S3SnapshotStorage: an archived body is answered with how to restore it."""
    bucket, rules = places.s3["bucket_name"], json.loads((HERE / "lifecycle.json").read_text(encoding="utf-8"))
    try:
        await client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=AS_DOCUMENTED)
    except ParamValidationError as exc:
        print(f"as documented: {str(exc).splitlines()[1]}")
    await client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    found = (await client.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]
    print(f"lifecycle.json: the bucket has the rules {sorted(rule['ID'] for rule in found)}")

    async with S3SnapshotStorage(prefix="production/snapshots/", **places.s3) as storage:
        saga_id = uuid4()
        await storage.save_snapshot(snapshot(saga_id, datetime.now(UTC) - timedelta(days=400)))
        await move_by_rule(client, bucket, "production/snapshots/data/")
        try:
            await storage.get_latest_snapshot(saga_id)
        except SnapshotArchived as exc:
            print(f"single object, moved by a rule: {exc.storage_class}; {exc.how_to_restore}")


async def policies_on_packs(places: Places) -> None:
    """The same ages as policies: packs move, and the catalog knows where everything is."""
    text = (HERE / "lifecycle.yaml").read_text(encoding="utf-8")
    clock = VirtualClock(datetime.now(UTC))
    config = read_config(tiered_config(places, text[text.index("policies:") :]))
    async with open_runtime(config, clock=clock) as runtime, s3_client(places) as client:
        await migrate(runtime.db)
        storage, saga_id = runtime.storage(), uuid4()
        await storage.save_snapshot(snapshot(saga_id, clock.now()))
        clock.advance(timedelta(days=92))
        await run_job("age", runtime.job_context())
        (ref,) = await storage.timeline(saga_id)
        print(f"pack, moved by the policy: {ref.storage_class}")

        # Now a rule that should not be there.
        await move_by_rule(client, places.s3["bucket_name"], "tiered/packs/")
        (ref,) = await storage.timeline(saga_id)
        try:
            await storage.get_latest_snapshot(saga_id)
        except SnapshotArchived as exc:
            print(f"pack, moved by a rule: {type(exc).__name__}; the catalog still says {ref.storage_class}")
        restore = await storage.restore(saga_id, into="in-place")
        print(f"  restored in place: {restore}")
        restore = await storage.restore(saga_id, into="hot")
        print(f"  restored into Redis: {restore.state if restore else None}")
        for _ in range(3):
            await run_job("restore", runtime.job_context())
        found = await storage.get_latest_snapshot(saga_id)
        print(f"  reads amount {found.context['amount'] if found else None} again")


async def main() -> None:
    """Both."""
    async with open_places(__doc__, redis=True, postgres=True, s3=True) as places:
        async with s3_client(places) as client:
            await rules_on_single_objects(places, client)
        await policies_on_packs(places)


if __name__ == "__main__":
    asyncio.run(main())
