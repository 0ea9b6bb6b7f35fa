"""Saves of one id reach each tier in the order in which they were made; saves of other ids do not wait for them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from support.payload import saga

from sagaz_tiering.catalog.durable import Put
from sagaz_tiering.codec.value import encode
from sagaz_tiering.config.sections import LimitSettings
from sagaz_tiering.policy import Durability, PolicySet
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.tiered.freshness import Pause
from sagaz_tiering.tiered.save import Saver


class Tier:
    """Takes what it is given once `open` is set, and notes it then."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.connection = self

    async def store(self, meta: SnapshotMeta, value: bytes, **_: Any) -> int:
        """As the hot tier does."""
        gate = self.open
        await gate.wait()
        self.taken.append(value)
        return 1

    async def ping(self) -> None:
        """It answers."""

    async def put(self, meta: SnapshotMeta, value: bytes, **_: Any) -> Put:
        """As PostgreSQL does."""
        await self.store(meta, value)
        return Put()


class Nothing:
    """Knows of nothing that a save must heed."""

    changes = None
    any_match = is_look_due = False

    def may_ask(self, *_: Any) -> bool:
        """No hold is in force."""
        return False


async def turns() -> None:
    for _ in range(9):
        await asyncio.sleep(0)


async def test_saves_of_one_id_take_turns_and_others_do_not_wait() -> None:
    """Even where the tier would take the later one first; a cancelled save passes its turn on."""
    hot, durable = Tier(), Tier()
    in_force = SimpleNamespace(policies=PolicySet([]), settings=SimpleNamespace(limits=LimitSettings()))
    tiers = SimpleNamespace(hot=hot, catalog=SimpleNamespace(durable=durable), in_force=in_force)
    nothing: Any = Nothing()
    saver = Saver(_as_any(tiers), nothing, nothing, nothing, Pause(durable.ping))
    snapshot = saga(1)[0]
    meta = encode(snapshot, saved_us=1).meta
    slow = durable.open = asyncio.Event()

    def save(value: bytes, of: SnapshotMeta = meta) -> asyncio.Task[Durability]:
        return asyncio.create_task(saver.put(snapshot, of, value))

    first = save(b"first")
    await turns()
    durable.open = asyncio.Event()
    durable.open.set()
    given_up, last, other = save(b"given up"), save(b"last"), save(b"other", meta._replace(snapshot_id=uuid4()))
    await turns()
    assert hot.taken == [b"first", b"other"]
    assert durable.taken == [b"other"]
    given_up.cancel()
    await turns()
    assert hot.taken == [b"first", b"other"], "it went past the first, which is still under way"
    slow.set()
    assert {await first, await last, await other} == {Durability.DURABLE}
    assert hot.taken == [b"first", b"other", b"last"]
    assert durable.taken == [b"other", b"first", b"last"]


def _as_any(tier: object) -> Any:
    return tier
