"""Dictionaries: what they may hold, who knows them, and what happens where one is missing or wrong."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from golden import make, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from support.payload import snapshots

from sagaz_tiering.codec.value import CorruptRecord, Record, encode, from_value, read_header, to_value
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.dictionaries import cache as shelf_module
from sagaz_tiering.dictionaries.cache import Dictionaries
from sagaz_tiering.dictionaries.training import disguised, enough, mask, train
from sagaz_tiering.errors import CatalogUnavailable, CorruptPack, HotTierUnavailable
from sagaz_tiering.jobs.train import masked_contents
from sagaz_tiering.packs.format import check_frame, parse_pack
from sagaz_tiering.packs.frame import open_frame

GOLDEN = Path(__file__).parent.parent / "golden"
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\w.@+-]+')


def sagas(count: int) -> list[list[Record]]:
    """Order sagas, newest snapshot first."""
    found: dict[UUID, list[Record]] = {}
    for snapshot in snapshots(count):
        found.setdefault(snapshot.saga_id, []).insert(0, encode(snapshot, saved_us=samples.SAVED_US))
    return list(found.values())


def trained(count: int = 60, size: int = 32 * 1024) -> Dictionary:
    data = train(masked_contents(sagas(count), seed="orders"), size=size)
    assert data is not None
    return Dictionary(data)


def test_dictionary_holds_no_text_that_few_sagas_share() -> None:
    """Of sixty sagas with ids, addresses, numbers and times not one text of fewer than five is in it."""
    bodies = [[record.body for record in saga] for saga in sagas(60)]
    counts: Counter[bytes] = Counter()
    for saga in bodies:
        counts.update({token for body in saga for token in TOKEN.findall(body)})
    rare = [token for token, count in counts.items() if count < 5 and len(token) >= 10]
    assert len(rare) > 5_000
    assert sum(b"@example.com" in token for token in rare) >= 55
    data = trained().data
    assert [token for token in rare if token in data] == []
    assert b'"newsletter"' in data


def test_mask_keeps_no_combination_of_values() -> None:
    """Values that many share are mixed: who has which is not told."""
    people = [("Ada", "Oslo"), ("Ben", "Rome"), ("Cleo", "Bonn"), ("Dina", "Lima")]
    bodies = [[json.dumps({"name": people[i % 4][0], "city": people[i % 4][1]}).encode()] for i in range(80)]
    masked = [json.loads(body) for [body] in mask(bodies, seed="people")]
    pairs = Counter((each["name"], each["city"]) for each in masked)
    assert set(pairs) - set(people)
    assert {name for name, _ in pairs} == {name for name, _ in people}


def test_mask_judges_a_value_by_its_key() -> None:
    """What is common under one key does not make it common under another."""
    bodies = [[json.dumps({"month": "May", "name": "May" if i == 7 else f"N{i}"}).encode()] for i in range(40)]
    masked = [json.loads(body) for [body] in mask(bodies, seed="names")]
    assert {each["month"] for each in masked} == {"May"}
    assert masked[7]["name"] != "May"


def test_mask_keeps_beginnings_or_ends_that_many_share() -> None:
    """Of a value that one saga has: the beginning or the end that others share with it, never both."""
    domains = ("a.example", "b.example")
    mails = [f"{'anna' if i % 2 else 'bert'}.{i:09}@{domains[i // 20]}" for i in range(40)]
    bodies = [[json.dumps({"mail": mail, "at": f"2026-03-01T{i:012}"}).encode()] for i, mail in enumerate(mails)]
    masked = [json.loads(body) for [body] in mask(bodies, seed="mails")]
    assert all(each["at"].startswith("2026-03-01T") for each in masked)
    for each in masked:
        assert each["mail"] not in mails
        first, _, last = each["mail"].partition("@")
        assert (first[:5] in ("anna.", "bert.")) + (last in domains) == 1


def test_mask_keeps_what_is_the_same_within_a_saga() -> None:
    """Snapshots of one saga resemble each other in the sample as they do in a frame."""
    bodies = [[json.dumps({"id": f"{i:08}", "step": step}).encode() for step in "ab"] for i in range(30)]
    for saga in mask(bodies, seed="same"):
        first, second = (json.loads(body)["id"] for body in saga)
        assert first == second


def test_text_of_a_share_of_many_sagas_is_needed() -> None:
    """Five sagas of a hundred are enough, five of a thousand may all be of one customer."""
    assert (enough(60), enough(100), enough(1000)) == (5, 5, 20)


@given(st.binary(max_size=200), st.randoms(use_true_random=False))
def test_disguise_has_the_shape_and_nothing_else(token: bytes, random: Random) -> None:
    """Digits for digits, letters for letters, the same punctuation, and nothing that is not ASCII."""
    other = disguised(token, random)
    assert len(other) == len(token)
    for char, instead in zip(token, other, strict=True):
        if chr(char).isdigit() and char < 128:
            assert chr(instead).isdigit()
        elif chr(char).isalpha() or char >= 128:
            assert instead < 128
            assert chr(instead).isalpha()
        else:
            assert instead == char


def test_disguise_hides_every_character() -> None:
    """No position keeps its character more often than chance has it."""
    random = Random(1)
    kept = sum(a == b for _ in range(200) for a, b in zip(b"Zoe42", disguised(b"Zoe42", random), strict=True))
    assert kept < 200 * 5 * 0.12


@settings(max_examples=50)
@given(st.lists(st.lists(st.binary(max_size=80), min_size=1, max_size=3), min_size=1, max_size=8))
def test_mask_takes_any_bytes(bodies: list[list[bytes]]) -> None:
    """Also what is no JSON at all; lengths do not change where nothing is shared."""
    masked = mask(bodies, seed="any")
    assert [len(saga) for saga in masked] == [len(saga) for saga in bodies]
    if len(bodies) < 5:
        assert [[len(body) for body in saga] for saga in masked] == [[len(body) for body in saga] for saga in bodies]


def test_training_gives_the_same_for_the_same() -> None:
    """So that two that train at once make one object."""
    assert trained().data == trained().data
    contents = masked_contents(sagas(30), seed="other name")
    assert contents != masked_contents(sagas(30), seed="orders")


def test_training_on_too_little_gives_none() -> None:
    """Instead of an error that stops the job."""
    assert train([b"x"], size=1024) is None
    assert train([], size=1024) is None


def test_contents_hide_ids_times_and_rare_steps() -> None:
    """Names of steps that few sagas have are left out; ids and times are others."""
    found = sagas(30)
    rare = found[0][0]
    found[0][0] = Record(meta=rare.meta._replace(step_name="approve-Zoe"), encoding=rare.encoding, body=rare.body)
    whole = b"".join(masked_contents(found, seed="orders"))
    assert b"approve-Zoe" not in whole
    assert b"tell_customer" in whole
    for saga in found:
        for record in saga:
            assert record.meta.saga_id.bytes not in whole
            assert record.meta.snapshot_id.bytes not in whole
            assert record.meta.created_us.to_bytes(8, "big") not in whole


def test_dictionary_makes_values_of_others_smaller() -> None:
    """Orders that it was not trained from take a quarter less."""
    found = trained()
    others = [record for saga in sagas(90)[60:] for record in saga]
    plain = sum(len(to_value(record, level=1)) for record in others)
    assert sum(len(to_value(record, level=1, dictionary=found)) for record in others) < 0.78 * plain


# --- formats -------------------------------------------------------------------------------------------------------


def known(*found: Dictionary) -> Mapping[bytes, Dictionary]:
    return {each.id: each for each in found}


def test_golden_value_with_a_dictionary_is_still_read() -> None:
    """A dictionary and what was compressed with it are readable for ever."""
    value = (GOLDEN / "value-v1-dictionary.bin").read_bytes()
    dictionary = Dictionary((GOLDEN / "dictionary-v1.zdict").read_bytes())
    assert read_header(value).dictionary_id == dictionary.id == dictionary.digest[:8]
    assert from_value(value, None, known(dictionary)) == make.plain_records()[0]


def test_golden_frame_and_pack_with_a_dictionary_are_still_read() -> None:
    """The footer names the dictionary by its whole digest."""
    dictionary = Dictionary((GOLDEN / "dictionary-v1.zdict").read_bytes())
    frame = (GOLDEN / "frame-v1-dictionary.bin").read_bytes()
    assert open_frame(frame, dictionaries=known(dictionary)) == make.plain_records()
    data = (GOLDEN / "pack-v1-dictionary.pack").read_bytes()
    footer = parse_pack(data, dictionaries=known(dictionary))
    assert footer.dictionaries == (dictionary.digest,)
    assert [entry.dictionary_id for entry in footer.frames] == [dictionary.id, None]


def test_missing_and_wrong_dictionaries_are_named() -> None:
    """Without its dictionary, and with the wrong bytes in its place, nothing is returned."""
    dictionary = make.dictionary()
    value = to_value(make.plain_records()[0], level=3, dictionary=dictionary)
    frame = make.frame_with_dictionary()
    with pytest.raises(CorruptRecord, match=dictionary.id.hex()):
        from_value(value)
    with pytest.raises(CorruptPack, match=dictionary.id.hex()):
        open_frame(frame.payload)
    with pytest.raises(CorruptPack, match=dictionary.id.hex()):
        parse_pack(make.pack_with_dictionary().data)

    record = sagas(1)[0][0]
    real = trained()
    value = to_value(record, level=3, dictionary=real)
    altered = Dictionary(real.data[:-4000] + bytes(4000))
    for wrong in (dictionary, altered):
        with pytest.raises(CorruptRecord):
            from_value(value, None, {real.id: wrong})
    assert from_value(value, None, known(real)) == record


@pytest.mark.parametrize("step", range(3))
def test_any_changed_byte_of_a_frame_with_a_dictionary_is_noticed(step: int) -> None:
    """The id of the dictionary too."""
    dictionary = make.dictionary()
    frame = make.frame_with_dictionary()
    for at in range(step, len(frame.payload), 3):
        damaged = bytearray(frame.payload)
        damaged[at] ^= 0x41
        with pytest.raises(CorruptPack):
            check_frame(frame.entry, bytes(damaged), keys={}, dictionaries=known(dictionary))


# --- the shelf -----------------------------------------------------------------------------------------------------


def some(text: str) -> bytes:
    """Content of a dictionary."""
    return (text * 400).encode()


class Place:
    """A source and a register in memory, which may be down or altered; counts what it is asked."""

    def __init__(self, place: str, *held: bytes, current: Mapping[str, bytes] | None = None) -> None:
        self.place = place
        self.held = {Dictionary(data).id: data for data in held}
        self.names = dict(current or {})
        self.failure: Exception | None = None
        self.asked: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, dictionary_id: bytes) -> bytes | None:
        self.asked.append(dictionary_id)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.held.get(dictionary_id)

    async def current(self) -> Mapping[str, bytes]:
        if self.failure is not None:
            raise self.failure
        return self.names


A, B, C = (Dictionary(some(text)) for text in ("alpha ", "beta ", "gamma "))


async def test_need_asks_the_nearest_place_first_and_once() -> None:
    """The next one only where it does not have it; nothing twice; none for None."""
    near, far = Place("near", A.data), Place("far", A.data, B.data)
    cache = Dictionaries([near, far])
    assert set(await cache.need(None, A.id, B.id, A.id)) == {A.id, B.id}
    assert set(await cache.need(A.id, B.id)) == {A.id, B.id}
    assert sorted(near.asked) == sorted([A.id, B.id])
    assert far.asked == [B.id]
    assert await cache.need(None) == {}


async def test_concurrent_needs_share_one_load() -> None:
    """And one who gives up does not take it from the others."""
    place = Place("only", A.data)
    place.gate.clear()
    cache = Dictionaries([place])
    first, *others = [asyncio.create_task(cache.need(A.id)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    place.gate.set()
    assert [set(await other) for other in others] == [{A.id}] * 4
    assert place.asked == [A.id]


async def test_altered_content_is_not_used() -> None:
    """The next place is asked; where no other has it, it is left out."""
    near, far = Place("near"), Place("far", A.data)
    near.held[A.id] = A.data[:-1] + b"?"
    assert (await Dictionaries([near, far]).need(A.id))[A.id].data == A.data
    assert await Dictionaries([near]).need(A.id) == {}


async def test_place_that_is_down_is_not_an_answer() -> None:
    """What others have is found all the same; what none of them has may be there."""
    near, far = Place("near"), Place("far", A.data)
    near.failure = HotTierUnavailable("down")
    cache = Dictionaries([near, far])
    assert set(await cache.need(A.id)) == {A.id}
    with pytest.raises(HotTierUnavailable):
        await cache.need(B.id)
    near.failure = None
    near.held[B.id] = B.data
    assert set(await cache.need(B.id)) == {B.id}


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was used longest ago goes; who asked for more than fit has them all."""
    place = Place("only", A.data, B.data, C.data)
    monkeypatch.setattr("sagaz_tiering.dictionaries.cache.MOST_KEPT", 2)
    cache = Dictionaries([place])
    assert set(await cache.need(A.id, B.id, C.id)) == {A.id, B.id, C.id}
    assert len(cache) == 2
    await cache.need(A.id, B.id)
    assert cache.at_hand(A.id) is not None
    await cache.need(C.id)
    assert set(cache) == {A.id, C.id}
    assert cache.at_hand(B.id) is None


async def test_writing_waits_for_nothing_and_looks_in_the_background() -> None:
    """The first save goes without; later ones use what was found, whatever happens to the places."""
    place = Place("only", A.data, current={"orders": A.id})
    cache = Dictionaries([place], [place])
    assert cache.for_writing("orders") is None
    for _ in range(10):
        await asyncio.sleep(0)
    found = cache.for_writing("orders")
    assert found is not None
    assert found.id == A.id
    assert cache.for_writing("payments") is None
    place.failure = HotTierUnavailable("down")
    await cache.refresh()
    assert cache.for_writing("orders") is found
    await cache.close()


async def test_new_dictionary_is_noticed_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with every save."""
    place = Place("only", A.data, B.data, current={"orders": A.id})
    cache = Dictionaries([place], [place])
    now = 1000.0
    monkeypatch.setattr(shelf_module.time, "monotonic", lambda: now)
    await cache.freshen()
    place.names["orders"] = B.id
    now += 30
    for _ in range(100):
        found = cache.for_writing("orders")
        await asyncio.sleep(0)
    assert found is not None
    assert found.id == A.id
    now += 31
    cache.for_writing("orders")
    for _ in range(20):
        await asyncio.sleep(0)
    found = cache.for_writing("orders")
    assert found is not None
    assert found.id == B.id
    await cache.close()


async def test_lost_dictionary_is_looked_for_once_a_minute() -> None:
    """Saves go on without one, instead of asking every place each time."""
    place = Place("only", current={"orders": A.id})
    cache = Dictionaries([place], [place])
    await cache.freshen()
    for _ in range(50):
        assert cache.for_writing("orders") is None
        await asyncio.sleep(0)
    assert len(place.asked) == 1
    place.held[A.id] = A.data
    await cache.refresh()
    assert cache.for_writing("orders") is not None


async def test_register_that_knows_nothing_is_not_the_last_word() -> None:
    """A Redis that was emptied, or that is down, leaves it to the catalog."""
    empty, full = Place("redis"), Place("catalog", A.data, current={"orders": A.id})
    cache = Dictionaries([empty, full], [empty, full])
    await cache.refresh()
    assert cache.for_writing("orders") is not None
    empty.failure = CatalogUnavailable("down")
    other = Dictionaries([empty, full], [empty, full])
    await other.refresh()
    assert other.for_writing("orders") is not None


async def test_turned_off_shelf_writes_without_and_reads_on() -> None:
    """Reading needs every dictionary that was ever used."""
    place = Place("only", A.data, current={"orders": A.id})
    cache = Dictionaries([place], [place], enabled=False)
    await cache.freshen()
    assert cache.for_writing("orders") is None
    assert cache.chosen() == {}
    assert set(await cache.need(A.id)) == {A.id}
