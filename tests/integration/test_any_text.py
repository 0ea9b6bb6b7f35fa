"""Any text by any entrance: it is refused with an error that says so, or comes back; nothing later fails of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError
from support.exact import exactly
from support.servers import fresh_database
from support.snapshots import make, replay
from support.tiers import DAY, Places, Product, config, product, rebuilt_from_bucket

from sagaz_tiering.catalog.restores import Wanted
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import SagazTieringError, StatementRefused
from sagaz_tiering.exports.verify import verify_export
from sagaz_tiering.jobs import JOBS
from sagaz_tiering.operations.status import take_stock
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage import PostgreSQLSnapshotStorage

SPECIAL = ("\x00", "\ud800", "\udfff", "\\u0000", "\\", '"', "\x1f", "\x1e", "\n", "\u2028", "\U0010ffff", "'", "=")
ATTRIBUTES = [{"name": "tenant", "path": "tenant"}, {"name": "secret", "path": "secret", "hashed": True}]


def settings(places: Places) -> TieringConfig:
    return config(
        **places,
        attributes=ATTRIBUTES,
        attribute_hash_key="0" * 64,
        policies=[{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "40d"}],
    )


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    async with product(settings(places)) as opened:
        yield opened


def texts(draw: Random) -> list[str]:
    """What is special alone, and among other characters."""
    among = ["".join(draw.choice([*SPECIAL, "a", "é", "*", "[", "]", "?"]) for _ in range(6)) for _ in range(12)]
    return [*SPECIAL, *(f"a{each}b" for each in SPECIAL), *among, "x" * 3_000]


def with_text(shop: Product, text: str) -> SagaSnapshot:
    """In every place of a snapshot that takes one."""
    return replace(
        make(0),
        snapshot_id=uuid4(),
        saga_id=uuid4(),
        created_at=shop.clock.now(),
        saga_name=text,
        step_name=text,
        status=text,
        context={"tenant": text, "secret": text, text: [text]},
        completed_steps=[text],
        external_refs={text: text},
        retention_until=None,
    )


async def faults_of(what: str, text: str, call: Awaitable[Any]) -> list[str]:
    """What is wrong with the answer: neither given nor refused with an error of ours that says what to do."""
    try:
        await call
    except ValidationError:  # of a match, as of the configuration
        return []
    except StatementRefused as exc:
        return [f"{what} {text!r:.40}: {exc}"]
    except SagazTieringError as exc:
        return [] if exc.hint or len(str(exc)) > 20 else [f"{what} {text!r:.40}: {exc} says nothing"]
    except Exception as exc:  # noqa: BLE001  # all of them are told
        return [f"{what} {text!r:.40}: {type(exc).__name__}: {exc}"]
    return []


def entrances(shop: Product, kept: SagaSnapshot, folder: Path) -> dict[str, Callable[[str], Awaitable[Any]]]:
    """Every one that takes a text, but for saves."""
    storage, catalog = shop.storage, shop.runtime.catalog

    async def hold_match(**match: Any) -> Any:
        return await storage.holder.hold(Match(**match), reason="a test", who="a test")

    async def restore(**match: Any) -> Any:
        return await storage.restorer.request(Wanted(match=Match(**match)), who="a test")

    async def release(text: str) -> Any:
        await storage.hold(kept.saga_id, "to be released")
        return await storage.release(kept.saga_id, text, who=text)

    async def audit(text: str) -> Any:
        entry = await catalog.audit.begin(
            shop.clock.now(), who=text, address=text, action=text, subject=text, reason=text
        )
        return await catalog.audit.end(entry, text)

    async def run(text: str) -> Any:
        await catalog.history.started("age", shop.clock.now())
        await catalog.history.finished("age", shop.clock.now(), error=text, stopped=text, summary={})
        [told] = [each for each in await catalog.history.last_runs() if each.job == "age"]
        assert (told.error, told.stopped) == (text, text)

    async def replayed(text: str) -> Any:
        record = replay(
            1,
            replay_id=uuid4(),
            original_saga_id=kept.saga_id,
            checkpoint_step=text,
            initiated_by=text,
            error_message=text,
            context_override={text: text},
        )
        await storage.save_replay_log(record)
        assert (await storage.get_replay_log(record.replay_id) or {})["error_message"] == text

    return {
        "hold reason": lambda text: storage.hold(kept.saga_id, text),
        "hold who": lambda text: storage.hold(kept.saga_id, "a test", who=text),
        "release": release,
        "hold name": lambda text: hold_match(saga_name=text),
        "hold step": lambda text: hold_match(step_name=[text, "x"]),
        "hold status": lambda text: hold_match(status=text),
        "hold outcome": lambda text: hold_match(outcome=text),
        "hold attribute": lambda text: hold_match(attributes={"tenant": text}),
        "hold attribute's name": lambda text: hold_match(attributes={text: "x"}),
        "restore name": lambda text: restore(saga_name=text),
        "restore step": lambda text: restore(step_name=text),
        "restore outcome": lambda text: restore(outcome=text),
        "restore attribute": lambda text: restore(attributes={"tenant": [text]}),
        "restore who": lambda text: storage.restore(kept.saga_id, who=text),
        "restore tier": lambda text: storage.restore(kept.saga_id, tier=text),
        "forget": lambda text: storage.forget(uuid4(), reason=text, who=text),
        "find name": lambda text: storage.find(saga_name=text, count=True),
        "find status": lambda text: storage.find(status=[text], step=text),
        "find attribute": lambda text: storage.find(attributes={"tenant": text}),
        "find hashed": lambda text: storage.find(attributes={"secret": [text]}),
        "find attribute's name": lambda text: storage.find(attributes={text: "x"}),
        "find tier": lambda text: storage.find(tier=text),
        "find cursor": lambda text: storage.find(cursor=text),
        "saga id": lambda text: storage.get_latest_snapshot(text),
        "snapshot id": lambda text: storage.get_snapshot(text),
        "before step": lambda text: storage.get_latest_snapshot(kept.saga_id, before_step=text),
        "diff": lambda text: storage.diff(kept.saga_id, text),
        "covered": lambda text: storage.covered(text),
        "export": lambda text: storage.export(folder / str(uuid4()), who=text, saga_name=text),
        "holds cursor": lambda text: catalog.holds.page(5, text),
        "quarantine": lambda text: catalog.quarantine.record("object", text, text, shop.clock.now()),
        "quarantine retry": lambda text: catalog.quarantine.retry(text),
        "audit": audit,
        "job": run,
        "replay": replayed,
    }


async def look_at_everything(shop: Product) -> None:
    """All that lists, pages, jobs and a rebuild read."""
    storage, catalog = shop.storage, shop.runtime.catalog
    for job in JOBS:
        report = await shop.run(job)
        assert not {"failed", "damaged", "unreadable", "quarantined"} & set(report.counts), report
    assert await storage.publish_journal() == ""
    held, cursor = await catalog.holds.page(1000)
    assert (len(held), cursor) == (len(await catalog.holds.in_force()), None)
    await catalog.holds.entries(10_000)
    await catalog.restores.newest(1000)
    await catalog.erasures.newest(1000)
    await catalog.quarantine.items(1000, dropped_too=True)
    await catalog.audit.page(1000)
    await catalog.history.last_runs()
    await take_stock(shop.runtime.job_context())
    page = await storage.find(limit=1000)
    for one in page:
        await storage.timeline(one.saga_id)
        await storage.explain_saga(one.saga_id)
    [_ async for _ in storage.iter_replay_logs()]


async def test_any_text_is_refused_or_comes_back_and_nothing_fails_of_it_later(
    shop: Product, places: Places, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """NUL, lone surrogates, escapes, separators: in names, patterns, reasons, values, cursors, ids."""
    saved: list[SagaSnapshot] = []
    for text in texts(Random(7)):
        saved.append(with_text(shop, text))
        await shop.storage.save_snapshot(saved[-1])
        if len(text) < 200:
            found = await shop.storage.find(attributes={"tenant": text})
            assert saved[-1].saga_id in [each.saga_id for each in found], text
    faults: list[str] = []
    for text in texts(Random(7)):
        for what, enter in entrances(shop, saved[0], tmp_path).items():
            faults += await faults_of(what, text, enter(text))
    assert not faults, "\n".join(faults)
    await look_at_everything(shop)
    shop.clock.advance(10 * DAY)
    await look_at_everything(shop)
    for snapshot in saved:
        assert exactly(await shop.storage.get_snapshot(snapshot.snapshot_id)) == exactly(snapshot)
    await shop.storage.export(tmp_path / "export")
    assert verify_export(tmp_path / "export").problems == []
    held = [each.to_dict() for each in await shop.runtime.catalog.holds.in_force()]
    async with (
        fresh_database(postgres_server) as other,
        product(settings({**places, "database": other}), now=shop.clock.now()) as anew,
    ):
        await rebuilt_from_bucket(anew)
        assert [each.to_dict() for each in await anew.runtime.catalog.holds.in_force()] == held
        await look_at_everything(anew)


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800", "x\udfff"])
def test_no_pattern_has_what_no_record_can_have(text: str) -> None:
    """Of a policy, a hold or a restore, whatever it is over; the error says what to write instead."""
    for match in (
        *({name: text} for name in ("saga_name", "step_name", "status", "outcome")),
        {"saga_name": ["x", text]},
        {"attributes": {"tenant": text}},
        {"attributes": {"tenant": ["x", text]}},
    ):
        with pytest.raises(ValidationError, match=r"NUL or a lone surrogate"):
            Match(**match)


async def test_postgresql_storage_gives_any_text_back(empty_database: str, shop: Product) -> None:
    """The one that stands alone, which keeps JSONB that people query."""
    async with PostgreSQLSnapshotStorage(empty_database, clock=shop.clock) as storage:
        for text in texts(Random(8)):
            snapshot = with_text(shop, text)
            await storage.save_snapshot(snapshot)
            assert exactly(await storage.get_snapshot(snapshot.snapshot_id)) == exactly(snapshot)
            assert await storage.get_latest_snapshot(snapshot.saga_id, before_step=text) == snapshot
            assert await storage.get_latest_snapshot(snapshot.saga_id, before_step=f"{text}x") is None
