"""The demonstration: it shows the whole product, and notices when a snapshot is missing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from support.commands import DEADLINE_S, cli, save, start_command, write_config
from support.console import asked
from support.payload import START, snapshots
from support.servers import server_folder

from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.config.load import load_config
from sagaz_tiering.demo import run_demo
from sagaz_tiering.demo.check import FateTally, check_fates, expected_fate
from sagaz_tiering.jobs import run_job
from sagaz_tiering.policy import Policy
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the demonstration's servers can live in."""
    with server_folder() as folder:
        yield folder


def left_in(folder: Path) -> list[Path]:
    """What a folder holds."""
    return sorted(folder.iterdir())


async def test_demo_accounts_for_every_snapshot(scratch: Path) -> None:
    """It passes through every tier, reads from each, ends well, and leaves nothing behind.

    Settings in the environment point at other servers; it must not notice them.
    """
    answer = await cli(
        *("demo", "--json", "--sagas", 12),
        TMPDIR=str(scratch),
        SAGAZ_TIERING_TIERS__HOT__URL="redis://127.0.0.1:1/0",
        SAGAZ_TIERING_POLICIES="[]",
    )
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["ok"] is True
    stages = {stage["stage"]: stage for stage in document["stages"]}
    tiers = {
        key: {line["tier"]: line["snapshots"] for line in stage["tiers"] if line["snapshots"]}
        for key, stage in stages.items()
    }
    assert tiers["day-0"]["Redis (hot)"] == document["acknowledged"]
    assert tiers["day-8"] == {"S3 STANDARD_IA": document["acknowledged"]}
    assert set(tiers["day-91"]) == {"S3 GLACIER", "S3 GLACIER_IR", "S3 STANDARD_IA"}
    assert set(tiers["month-14"]) == {"S3 GLACIER", "S3 DEEP_ARCHIVE"}
    assert set(tiers["year-7"]) == {"S3 DEEP_ARCHIVE"}
    assert all(stage["check"]["checked"] == document["acknowledged"] for stage in stages.values())
    assert any("rolled_back" in ending for ending in document["sagas"])
    assert left_in(scratch) == []


async def test_demo_explains_itself(scratch: Path) -> None:
    """Without a terminal it prints plain text that names what happens, and keeps its data where it is told to."""
    kept = scratch / "kept"
    answer = await cli("demo", "--sagas", 6, "--keep", kept, TMPDIR=str(scratch))
    assert answer.code == 0, answer.err
    found = ("find --attribute payment=", "by `sagaz-tiering diff`", "added   /context/")
    for text in (*found, "8 days later", "restore", "archived in GLACIER", "nothing (expired)", "$", "✓ all"):
        assert text in answer.out
    assert "\x1b" not in answer.out
    again = await cli("demo", "--keep", kept)
    assert again.code == 2
    assert "is not empty" in again.err
    status = await cli("status", "--json", "--config", kept / "tiering.yaml")
    assert status.code == 0, status.err
    assert [pack["storage_class"] for pack in status.document["packs"]] == ["DEEP_ARCHIVE"]


async def test_demo_keeps_the_console_open_until_it_is_interrupted(scratch: Path, tmp_path: Path) -> None:
    """It says where and with which token, every tier has sagas, an operator may act; Ctrl-C ends it and its servers."""
    said = tmp_path / "said"
    said.touch()
    process = start_command("demo", "--console", "--sagas", 36, out=said, TMPDIR=str(scratch))
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (found := re.search(r"address +(\S+)/\n +token +(\S+)\n", said.read_text("utf-8"))):
                assert process.exitcode is None, said.read_text("utf-8")
                await asyncio.sleep(0.1)
        address, token = found.groups()
        status, overview = await asked(address, "/overview", token)
        assert (status, overview["health"]["ready"]) == (200, True)
        tiers = {(each["tier"], each["storage_class"]) for each in overview["tiers"]["value"]["holdings"]}
        assert tiers >= {("hot", ""), *(("cold", name) for name in ("STANDARD_IA", "GLACIER", "GLACIER_IR"))}
        assert len(overview["history"]["value"]["points"]) > 5
        _, found_sagas = await asked(address, "/sagas?name=payment-*&tier=hot", token)
        saga = found_sagas["found"]["value"]["sagas"][0]
        _, by_number = await asked(address, f"/sagas?q={saga['attributes']['payment'][0]}", token)
        assert [each["saga_id"] for each in by_number["found"]["value"]["sagas"]] == [saga["saga_id"]]
        assert (await asked(address, f"/sagas/{saga['saga_id']}/hold", token, reason="case 7"))[0] == 200
        os.kill(process.pid or 0, signal.SIGINT)
        await asyncio.to_thread(process.join, DEADLINE_S)
        assert process.exitcode == 0, said.read_text("utf-8")
    finally:
        process.terminate()
        await asyncio.to_thread(process.join, DEADLINE_S)
    assert left_in(scratch) == []
    assert (await cli("demo", "--console", "--json")).code == 2


async def _delete_packs(runtime: Runtime) -> None:
    await runtime.objects.delete([each.key async for each in runtime.objects.list("packs/")])


async def test_demo_fails_when_a_pack_is_missing() -> None:
    """Objects deleted behind its back: exit code 6, and every snapshot in them is named."""

    async def interfere(stage: str, runtime: Runtime) -> None:
        if stage == "day-8":
            await _delete_packs(runtime)

    outcome = await run_demo(sagas=6, quiet=True, interfere=interfere)
    assert outcome.exit_code == 6
    assert outcome.acknowledged > 0
    assert len(outcome.problems) == outcome.acknowledged
    ids = {each["snapshot_id"] for each in outcome.stages[-1]["check"]["wrong"]}
    assert all(any(one in problem for problem in outcome.problems) for one in ids)
    assert json.dumps(outcome.to_dict())


@pytest.fixture
async def shop(tmp_path: Path, database: str, redis_url: str) -> AsyncIterator[Shop]:
    """Two sagas saved in an installation whose policy moves them to GLACIER after 90 days."""
    clock = VirtualClock(START + timedelta(hours=1))
    policies = (
        "policies:\n  - name: all\n    even_if_costlier: true\n"
        "    move: [{to: STANDARD_IA, after: 7d}, {to: GLACIER, after: 90d}]\n"
        "    retain: 400d\n"
    )
    config = load_config(write_config(tmp_path, database=database, redis_url=redis_url, policies=policies))
    async with open_runtime(config, clock=clock) as runtime:
        made = list(snapshots(2))
        await save(runtime.storage(), made)
        yield Shop(runtime, clock, made)


@dataclass(frozen=True, slots=True)
class Shop:
    """What the check looks at."""

    runtime: Runtime
    clock: VirtualClock
    made: list[SagaSnapshot]

    async def pass_time(self, days: int) -> None:
        """Move on and run the jobs; nothing is due where no time passes."""
        if days == 0:
            return
        self.clock.advance(timedelta(days=days))
        for job in ("age", "transition", "expire"):
            await run_job(job, self.runtime.job_context())

    async def check(self) -> FateTally:
        """The demonstration's check."""
        config, objects = self.runtime.settings, self.runtime.objects
        return await check_fates(self.made, self.runtime.storage(), objects, config.policies, self.clock.now())


async def test_check_passes_where_all_is_well(shop: Shop) -> None:
    """Hot, packed, archived and gone alike."""
    for days, fate in (
        (0, "readable in hot"),
        (8, "readable in STANDARD_IA"),
        (90, "archived in GLACIER"),
        (400, "gone"),
    ):
        await shop.pass_time(days)
        tally = await shop.check()
        assert tally.wrong == []
        assert tally.fates == {("order-processing", fate): 10}


async def test_check_names_the_one_that_is_missing(shop: Shop) -> None:
    """One snapshot of many, deleted while hot."""
    lost = shop.made[3]
    await shop.runtime.storage().delete_snapshot(lost.snapshot_id)
    tally = await shop.check()
    assert [wrong.snapshot_id for wrong in tally.wrong] == [lost.snapshot_id]
    assert str(lost.snapshot_id) in str(tally.wrong[0])
    assert (tally.wrong[0].expected, tally.wrong[0].found) == ("readable in hot", "gone")


async def test_check_notices_other_contents(shop: Shop) -> None:
    """A value that came back as another type is not what was saved."""
    other = replace(shop.made[3], context={**shop.made[3].context, "tax": Decimal("1.5")})
    shop.made[3] = replace(other, context={**other.context, "tax": 1.5})
    await save(shop.runtime.storage(), [other])
    assert [wrong.found for wrong in (await shop.check()).wrong] == ["readable with other contents"]


async def test_check_notices_what_should_be_elsewhere(shop: Shop) -> None:
    """Snapshots that no job moved or removed in time are where they should not be."""
    shop.clock.advance(timedelta(days=30))
    assert {wrong.found for wrong in (await shop.check()).wrong} == {"readable in hot"}


async def test_check_notices_missing_archived_bytes(shop: Shop) -> None:
    """A read of GLACIER answers without its bytes, so a pack that is gone must be looked for."""
    await shop.pass_time(8)
    await shop.pass_time(90)
    await _delete_packs(shop.runtime)
    tally = await shop.check()
    assert len(tally.wrong) == len(shop.made)
    assert {wrong.expected for wrong in tally.wrong} == {"archived in GLACIER"}


@pytest.mark.parametrize(
    ("age", "own_end", "fate"),
    [
        (timedelta(days=6), None, "readable in hot"),
        (timedelta(days=7), None, "readable in STANDARD_IA"),
        (timedelta(days=90), None, "archived in GLACIER"),
        (timedelta(days=400), None, "gone"),
        (timedelta(days=400), timedelta(days=500), "archived in GLACIER"),
        (timedelta(days=400), timedelta(days=30), "gone"),
    ],
)
def test_expected_fate_follows_the_policy_text(age: timedelta, own_end: timedelta | None, fate: str) -> None:
    """An instant counts as passed when it is reached; the later end of retention decides."""
    made = datetime(2026, 3, 1, tzinfo=UTC)
    policy = Policy.model_validate(
        {
            "name": "some",
            "match": {"saga_name": "pay-*"},
            "move": [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "90d"}],
            "retain": "400d",
        }
    )
    snapshot = SagaSnapshot.create(
        saga_id=uuid4(),
        saga_name="pay-out",
        step_name="one",
        step_index=0,
        status="executing",
        context={},
        completed_steps=[],
        created_at=made,
        retention_until=None if own_end is None else made + own_end,
    )
    assert expected_fate(replace(snapshot, created_at=made - timedelta(days=1)), made, [policy], made + age) == fate
