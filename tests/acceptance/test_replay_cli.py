"""`sagaz-tiering replay`: a failed saga, aged into the cold tier, is resumed with a corrected context."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from support.commands import cli, write_config
from support.tiers import config, product

from examples.shop import OrderSaga

POLICIES = "policies: [{name: all, move: [{to: STANDARD_IA, after: 7d}]}]\n"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def failed(database: str, redis_url: str, tmp_path: Path) -> tuple[OrderSaga, Path]:
    """A saga that failed at its second step a month ago; its snapshots are in a pack."""
    settings = write_config(tmp_path, database=database, redis_url=redis_url, policies=POLICIES)
    now = datetime.now(UTC)
    cold = settings.parent / "cold"
    async with product(config(database=database, redis_url=redis_url, cold=cold), now=now) as shop:
        saga = OrderSaga({"amount": Decimal("49.90"), "card": "expired"}, shop.storage)
        await saga.build()
        assert not (await saga.execute()).success
        shop.clock.advance(timedelta(days=20))
        assert (await shop.run("age")).counts["archived"] == 2
        assert await shop.hot_count() == 0
    return saga, settings


async def replay(*arguments: object, config: Path):
    """A replay command, run where the application's code is."""
    return await cli("replay", *arguments, "--config", config, cwd=ROOT)


async def test_cold_saga_is_replayed_with_a_corrected_context(failed: tuple[OrderSaga, Path]) -> None:
    """From its checkpoint to success; the history tells who did what."""
    saga, settings = failed
    run = ("run", saga.saga_id, "--from-step", "charge_card", "--saga", "examples.shop:make_saga", "--json")
    again = await replay(*run, "--initiated-by", "eve", config=settings)
    assert again.code == 1, again.err
    assert again.document["replay_status"] == "failed"
    assert "expired" in again.document["error_message"]

    good = await replay(*run, "-o", "card=good", "-o", "amount=12.5", "--initiated-by", "ada", config=settings)
    assert good.code == 0, good.err
    assert good.document["replay_status"] == "success"
    history = await replay("history", saga.saga_id, "--json", config=settings)
    newest, older = history.document["replays"]
    assert (newest["initiated_by"], newest["context_override"]) == ("ada", {"card": "good", "amount": 12.5})
    assert (older["initiated_by"], older["replay_status"]) == ("eve", "failed")
    shown = await replay("history", saga.saga_id, config=settings)
    assert "ada" in shown.out


async def test_dry_run_needs_no_code(failed: tuple[OrderSaga, Path]) -> None:
    """A step that was never reached is not found; without --saga nothing is executed."""
    saga, settings = failed
    dry = await replay("run", saga.saga_id, "--from-step", "charge_card", "--dry-run", "--json", config=settings)
    assert (dry.code, dry.document["dry_run"], dry.document["replay_status"]) == (0, True, "success")
    never = await replay("run", saga.saga_id, "--from-step", "book_parcel", "--dry-run", config=settings)
    assert never.code == 8
    assert "list-changes" in never.err
    missing = await replay("run", saga.saga_id, "--from-step", "charge_card", config=settings)
    assert missing.code == 2
    for reference in ("no.such:thing", "examples.shop:nothing", "examples.shop", "examples.shop:CONFIG"):
        wrong = await replay("run", saga.saga_id, "--from-step", "x", "--saga", reference, config=settings)
        assert wrong.code == 2, reference


async def test_time_travel_shows_the_state_of_an_instant(failed: tuple[OrderSaga, Path]) -> None:
    """Whole, one key, or nothing before the saga began."""
    saga, settings = failed
    at = datetime.now(UTC).isoformat()
    state = await replay("time-travel", saga.saga_id, "--at", at, "--json", config=settings)
    assert state.document["step_name"] == "charge_card"
    assert state.document["context"]["amount"] == {"~decimal": "49.90"}
    key = await replay("time-travel", saga.saga_id, "--at", at, "--key", "card", config=settings)
    assert key.out.strip() == '"expired"'
    assert (await replay("time-travel", saga.saga_id, "--at", at, "--key", "nope", config=settings)).code == 8
    early = await replay("time-travel", saga.saga_id, "--at", "2020-01-01T00:00:00Z", config=settings)
    assert early.code == 8


async def test_list_changes_shows_each_state(failed: tuple[OrderSaga, Path]) -> None:
    """Where it is without its bytes, or which keys changed with them."""
    saga, settings = failed
    changes = (await replay("list-changes", saga.saga_id, "--json", config=settings)).document["changes"]
    assert [(c["step_name"], c["tier"]) for c in changes] == [
        ("reserve_stock", "cold STANDARD_IA"),
        ("charge_card", "cold STANDARD_IA"),
    ]
    changes = (await replay("list-changes", saga.saga_id, "--keys", "--json", config=settings)).document["changes"]
    assert changes[0]["changed"] == ["+amount", "+card"]
    assert any("reserve_stock" in change for change in changes[1]["changed"])
    later = await replay("list-changes", saga.saga_id, "--after", changes[1]["created_at"], "--json", config=settings)
    assert [c["step_name"] for c in later.document["changes"]] == ["charge_card"]
    assert (await replay("list-changes", uuid4(), config=settings)).code == 8
