"""Exports: what is in them, what they prove, how they are interrupted, and how they come back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.commands import cli, write_config
from support.exact import exactly
from support.exports import key_files
from support.payload import saga
from support.snapshots import number as number_of
from support.snapshots import replay
from support.tiers import DAY, Product, rule

from sagaz_tiering import InMemorySnapshotStorage, transfer_snapshots
from sagaz_tiering.app.storage_url import open_source
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.exports.manifest import LeftOut
from sagaz_tiering.exports.report import ExportProgress
from sagaz_tiering.exports.verify import verify_export
from sagaz_tiering.snapshot import SagaSnapshot

POLICIES: list[dict[str, Any]] = [
    rule("frozen", "frozen", {"STANDARD_IA": "7d", "GLACIER": "90d"}),
    rule("fast", "fast", durability="hot"),
    rule("packed", "packed", {"STANDARD_IA": "7d"}),
    rule("rest"),
]


SECTIONS: dict[str, Any] = {"policies": POLICIES}
"""A product whose policies keep sagas in Redis, in PostgreSQL, in packs, and in packs in GLACIER."""


async def filled(shop: Product) -> dict[str, list[SagaSnapshot]]:
    """Three sagas in each tier; by the name of their policy."""
    saved: dict[str, list[SagaSnapshot]] = {}
    names = ("frozen", "packed", "fast", "rest")
    for place, name in enumerate(names):
        if name == "packed":
            shop.clock.advance(10 * DAY)
            await shop.run("age")
            shop.clock.advance(90 * DAY)
            await shop.run("transition")
        if name == "fast":
            shop.clock.advance(10 * DAY)
            await shop.run("age")
        saved[name] = []
        for number in range(3):
            saved[name] += saga(10 * place + number, begun=shop.clock.now(), saga_name=name)
        for snapshot in saved[name]:
            await shop.storage.save_snapshot(snapshot)
    return saved


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of a kind."""
    paths = sorted(folder.glob(f"{kind}-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.guarantee("G2", "G4")
async def test_export_has_every_tier_and_names_what_it_leaves_out(shop: Product, tmp_path: Path) -> None:
    """Each snapshot is as a read gives it, with where it came from; archived ones are named with what to do."""
    saved = await filled(shop)
    out = tmp_path / "export"
    report = await shop.storage.export(out)
    assert report.exit_code == 5
    assert report.counts.left_out == {LeftOut.ARCHIVED: 15}
    assert {each.snapshot_id for each in report.left_out} == {each.snapshot_id for each in saved["frozen"]}
    found = verify_export(out)
    assert found.problems == []
    assert found.manifest_sha256 == report.manifest_sha256
    told = {UUID(line["snapshot_id"]): line for line in lines(out, "timeline")}
    assert {name: {told[each.snapshot_id]["tier"] for each in some} for name, some in saved.items()} == {
        "frozen": {"cold"},
        "packed": {"cold"},
        "fast": {"hot"},
        "rest": {"hot"},
    }
    async with open_source(f"export://{out}") as source:
        back = {each.snapshot_id: each async for each in source.iter_snapshots()}
    for each in (*saved["packed"], *saved["fast"], *saved["rest"]):
        assert exactly(back[each.snapshot_id]) == exactly(each)
    assert len(back) == 45


@pytest.mark.parametrize("are_few", [True, False])
async def test_export_of_chosen_sagas_has_their_replays_and_holds(
    shop: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_few: bool
) -> None:
    """Only theirs, and holds by match, which may mean any; a transfer brings snapshots and replays back equal.

    The log of holds is asked for those of few sagas, and read from its beginning for many.
    """
    if not are_few:
        monkeypatch.setattr("sagaz_tiering.tiered.export._PAGE", 1)
    saved = [saga(number, begun=shop.clock.now(), saga_name="rest") for number in range(3)]
    for snapshot in (each for some in saved for each in some):
        await shop.storage.save_snapshot(snapshot)
    first, second, third = (some[0].saga_id for some in saved)
    for number, saga_id in enumerate((first, second, third)):
        await shop.storage.save_replay_log(replay(number, original_saga_id=saga_id, context_override={"n": number}))
        await shop.storage.hold(saga_id, f"case {number}")
    await shop.storage.release(first)
    await shop.storage.holder.hold(Match(saga_name=["r*"]), reason="all of them", who="a court")
    out = tmp_path / "export.zip"
    report = await shop.storage.export(out, form="zip", saga_ids=[second, str(first), second], who="an auditor")
    assert (report.counts.selected, report.counts.exported, report.counts.replays) == (2, 10, 2)
    found = verify_export(out)
    assert found.problems == []
    assert found.manifest is not None
    assert found.manifest.who == "an auditor"
    assert found.manifest.asked_for["saga_ids"] == sorted(map(str, (first, second)))
    with zipfile.ZipFile(out) as archive:
        held = [json.loads(line) for line in archive.read("holds-00001.jsonl").splitlines()]
        told = [json.loads(line) for line in archive.read("timeline-00001.jsonl").splitlines()]
    assert [(each["action"], each["reason"]) for each in held] == [
        ("hold", "case 0"),
        ("hold", "case 1"),
        ("release", "released"),
        ("hold", "all of them"),
    ]
    assert all(each["held"] for each in told)
    async with open_source(f"export://{out}") as source, InMemorySnapshotStorage(clock=shop.clock) as target:
        copied = await transfer_snapshots(source, target, clock=shop.clock)
        assert (copied.snapshots.copied, copied.replay_logs.copied, copied.failed) == (10, 2, 0)
        for saga_id, some in zip((first, second), saved, strict=False):
            assert await target.list_snapshots(saga_id) == some[::-1]
        again = await target.get_replay_log(number_of(1))
    assert again == await shop.storage.get_replay_log(number_of(1))


async def test_export_names_what_is_damaged_and_has_the_rest(shop: Product, tmp_path: Path) -> None:
    """A pack whose bytes were altered, an object that is gone, and a value in Redis that is not one."""
    saved = [saga(number, begun=shop.clock.now(), saga_name="packed") for number in range(2)]
    for snapshot in saved[0]:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(10 * DAY)
    await shop.run("age")
    for snapshot in saved[1]:
        await shop.storage.save_snapshot(snapshot)
    [path] = (tmp_path / "cold").rglob("*.pack.object/data")
    path.chmod(0o600)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + bytes(8) + whole[48:])
    report = await shop.storage.export(tmp_path / "damaged")
    assert (report.counts.exported, report.counts.left_out, report.exit_code) == (5, {LeftOut.DAMAGED: 5}, 6)
    assert {each.snapshot_id for each in report.left_out} == {each.snapshot_id for each in saved[0]}
    assert all(each.why for each in report.left_out)
    path.unlink()
    report = await shop.storage.export(tmp_path / "gone")
    assert (report.counts.exported, report.counts.left_out, report.exit_code) == (5, {LeftOut.DAMAGED: 5}, 6)
    for name in ("damaged", "gone"):
        assert verify_export(tmp_path / name).problems == []


async def test_export_reads_a_frame_once_and_neighbours_together(shop: Product, tmp_path: Path) -> None:
    """Forty sagas in one pack are one request, however many snapshots they have."""
    saved = [each for number in range(40) for each in saga(number, begun=shop.clock.now(), saga_name="packed")]
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(10 * DAY)
    await shop.run("age")
    assert len(await shop.object_keys()) == 1
    asked: list[tuple[int, int]] = []
    objects: Any = shop.storage._reader._loader._cold._reader._objects
    ask = objects.get_range

    async def counted(key: str, offset: int, length: int) -> bytes:
        asked.append((offset, offset + length))
        return bytes(await ask(key, offset, length))

    objects.get_range = counted
    report = await shop.storage.export(tmp_path / "export")
    assert report.counts.exported == len(saved)
    assert len(asked) <= 5
    assert all(one[1] <= other[0] for one, other in pairwise(sorted(asked)))


async def test_export_goes_on_where_it_was_stopped_or_killed(shop: Product, tmp_path: Path) -> None:
    """Stopped after a lot, then cancelled in the middle, then to its end: the same lines as one that was not."""
    saved = [each for number in range(6) for each in saga(number, begun=shop.clock.now(), saga_name="rest")]
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.storage._exporter.lot, shop.storage._exporter.round_bytes = 2, 1
    out, stop = tmp_path / "export", asyncio.Event()

    def stop_at_sagas(progress: ExportProgress) -> None:
        if progress.phase == "sagas":
            stop.set()

    stopped = await shop.storage.export(out, progress=stop_at_sagas, stop=stop)
    assert (stopped.stopped, stopped.counts.sagas, out.exists()) == (True, 2, False)
    entries = shop.storage._exporter.entries

    async def cancelled(copies: Any) -> Any:
        raise asyncio.CancelledError

    shop.storage._exporter.entries = cancelled  # type: ignore[method-assign]  # what a kill looks like from outside
    with pytest.raises(asyncio.CancelledError):
        await shop.storage.export(out)
    shop.storage._exporter.entries = entries  # type: ignore[method-assign]  # as it was
    extra = saga(99, begun=shop.clock.now(), saga_name="rest")
    await shop.storage.save_snapshot(extra[0])  # the sagas were chosen at the beginning
    finished = await shop.storage.export(out)
    assert (finished.stopped, finished.runs, finished.counts.exported) == (False, 3, len(saved))
    assert verify_export(out).problems == []
    assert len(list(out.glob("snapshots-*"))) == 3
    whole = tmp_path / "whole"
    await shop.storage.export(whole, saga_ids={each.saga_id for each in saved})
    for kind in ("snapshots", "timeline"):
        assert lines(out, kind) == lines(whole, kind)
    found = [(each["saga_id"], each["created_at"]) for each in lines(out, "snapshots")]
    assert found == sorted(found)


async def test_export_beside_saves_and_jobs_has_one_save_of_each(shop: Product, tmp_path: Path) -> None:
    """While sagas are saved anew, packed and deleted: what is in it was saved so, and each is in it at most once."""
    saved = {number: saga(number, begun=shop.clock.now(), saga_name="packed") for number in range(30)}
    versions: dict[UUID, set[str]] = {}

    async def save(snapshot: SagaSnapshot) -> None:
        versions.setdefault(snapshot.snapshot_id, set()).add(json.dumps(snapshot.context, sort_keys=True))
        await shop.storage.save_snapshot(snapshot)

    for snapshot in (each for some in saved.values() for each in some):
        await save(snapshot)
    shop.storage._exporter.lot = 3
    shop.clock.advance(10 * DAY)

    async def unrest() -> None:
        for number in range(0, 30, 3):
            for snapshot in saved[number]:
                await save(replace(snapshot, context={**snapshot.context, "again": number}))
            await shop.storage.delete_snapshot(saved[number + 1][0].snapshot_id)
        await shop.run("age")

    async with asyncio.TaskGroup() as group:
        exporting = group.create_task(shop.storage.export(tmp_path / "export"))
        group.create_task(unrest())
    counts = exporting.result().counts
    assert counts.found == counts.exported + sum(counts.left_out.values())
    assert set(counts.left_out) <= {LeftOut.GONE}
    found = lines(tmp_path / "export", "snapshots")
    assert len({each["snapshot_id"] for each in found}) == len(found) >= 140
    for each in found:
        assert json.dumps(each["context"], sort_keys=True) in versions[UUID(each["snapshot_id"])]
    assert verify_export(tmp_path / "export").problems == []


async def test_export_leaves_out_what_expires_while_it_is_made(shop: Product, tmp_path: Path) -> None:
    """From that instant it is not in it, and is named as expired."""
    until = shop.clock.now() + DAY
    for snapshot in saga(1, begun=shop.clock.now(), saga_name="rest", retention_until=until):
        await shop.storage.save_snapshot(snapshot)
    timelines = shop.storage._exporter.timelines

    async def late(sagas: Any) -> Any:
        found = await timelines(sagas)
        shop.clock.advance(2 * DAY)
        return found

    shop.storage._exporter.timelines = late  # type: ignore[method-assign]  # the clock moves in between
    report = await shop.storage.export(tmp_path / "export")
    assert (report.counts.exported, report.counts.left_out) == (0, {LeftOut.EXPIRED: 5})
    assert lines(tmp_path / "export", "snapshots") == []
    assert {each["left_out"] for each in lines(tmp_path / "export", "timeline")} == {"expired"}


async def test_command_exports_and_verifies(shop: Product, database: str, redis_url: str, tmp_path: Path) -> None:
    """With a signature, progress and exit codes; what is there is not replaced, and a wrong form is refused."""
    for snapshot in saga(1, begun=datetime.now(UTC) - DAY, saga_name="rest"):
        await shop.storage.save_snapshot(snapshot)
    private, public = key_files(tmp_path)
    written = write_config(tmp_path, database=database, redis_url=redis_url)
    out = tmp_path / "export"
    made = await cli("export", "--config", written, "--out", out, "--sign", private, "--json")
    assert made.code == 0, made.err
    assert made.document["counts"]["exported"] == 5
    verified = await cli("export", "verify", out, "--key", public, "--json")
    assert (verified.code, verified.document["is_intact"]) == (0, True)
    again = await cli("export", "--config", written, "--out", out)
    assert again.code == 2
    assert "is there already" in again.err
    for wrong in (["--out", tmp_path / "x", "--format", "csv"], []):
        assert (await cli("export", "--config", written, *wrong)).code == 2
    (out / "timeline-00001.jsonl").write_bytes(b"\n")
    altered = await cli("export", "verify", out)
    assert altered.code == 6
    assert "- nothing is proven: it is not as it was made" in altered.out
    assert (await cli("export", "--config", written, "--out", tmp_path / "mine.zip", "--format", "zip")).code == 0
    with (tmp_path / "mine.zip").open("ab") as file:
        file.write(b"more")
    said = await cli("export", "verify", tmp_path / "mine.zip")
    assert "error: mine.zip: " in said.err
    assert "*" not in said.err


MEASURED = """
import re, sys
from pathlib import Path
from sagaz_tiering.cli.app import run_app

code = run_app(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


@pytest.mark.guarantee("G6")
async def test_memory_of_an_export_does_not_grow_with_it(
    shop: Product, database: str, redis_url: str, tmp_path: Path
) -> None:
    """In a process of its own: twelve times as many snapshots take hardly more, and that is far below 200 MiB."""
    numbers = range(300)
    async with asyncio.TaskGroup() as saves:
        for snapshot in (each for n in numbers for each in saga(n, begun=datetime.now(UTC) - DAY, saga_name="rest")):
            saves.create_task(shop.storage.save_snapshot(snapshot))
    written = write_config(tmp_path, database=database, redis_url=redis_url)

    async def peak(name: str, *sagas: UUID) -> int:
        chosen = [argument for saga_id in sagas for argument in ("--saga", str(saga_id))]
        arguments = ["export", "--config", str(written), "--out", str(tmp_path / name), *chosen, "--json"]
        command = [sys.executable, "-c", MEASURED, *arguments]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1]) // 1024

    few = await peak("few", *(saga(number)[0].saga_id for number in range(25)))
    many = await peak("many")
    assert verify_export(tmp_path / "many").problems == []
    assert len(lines(tmp_path / "many", "snapshots")) == 5 * len(numbers)
    assert many < few + 40
    assert many < 200
