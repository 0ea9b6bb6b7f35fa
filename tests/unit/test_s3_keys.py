"""The keys of the S3 storage: their order is the snapshots' order, and they say back what they were made of."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from uuid import UUID

import pytest

from sagaz_tiering.codec.value import MAX_US, MIN_US
from sagaz_tiering.snapshot import MAX_STEP_INDEX, SnapshotMeta
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.keys import SavedEntry

SAGA = UUID("c0ffee00-0000-4000-8000-000000000001")
WRITTEN = datetime(2026, 3, 1, tzinfo=UTC)


def meta(
    created_us: int = 0, step_index: int = 0, snapshot: int = 7, retention_us: int | None = None, step: str = "pay"
) -> SnapshotMeta:
    return SnapshotMeta(
        snapshot_id=UUID(int=snapshot),
        saga_id=SAGA,
        saga_name="order",
        step_name=step,
        step_index=step_index,
        status="executing",
        created_us=created_us,
        saved_us=1,
        retention_us=retention_us,
        body_crc=2,
    )


EXTREMES = [
    meta(created, step, snapshot, until)
    for created, step, snapshot, until in product(
        (MIN_US, -1, 0, 1, MAX_US - 1),
        (-MAX_STEP_INDEX - 1, -1, 0, MAX_STEP_INDEX),
        (0, 1, 2**128 - 1),
        (None, MIN_US, 0, MAX_US - 1),
    )
]


def test_entries_list_newest_first_exactly() -> None:
    """The ascending order of keys is the descending order of snapshots, times before 1970 and ties included."""
    without_expiry = [each for each in EXTREMES if each.retention_us is None]
    by_key = sorted(without_expiry, key=lambda each: SavedEntry.of(each, "t").key)
    assert by_key == sorted(without_expiry, key=lambda each: each.order_key, reverse=True)


def test_entry_key_says_back_what_it_was_made_of() -> None:
    """Every field comes back from the key."""
    for each in EXTREMES:
        entry = SavedEntry.of(each, "0123abcd")
        assert SavedEntry.parse(entry.key, WRITTEN) == entry
        assert (entry.created_us, entry.step_index, entry.snapshot_id) == each[6:7] + each[4:5] + each[0:1]
        assert entry.retention_us == each.retention_us


def test_expiry_entries_list_by_their_end() -> None:
    """What ends first comes first, and what never ends has none."""
    ends = [MIN_US, -5, 0, 10**15, MAX_US - 1]
    keys = [SavedEntry.of(meta(retention_us=end), "aa").expiry_key for end in ends]
    assert keys == sorted(str(key) for key in keys)
    assert [s3_keys.parse_expiry(str(key)) for key in keys] == [(end, UUID(int=7)) for end in ends]
    assert SavedEntry.of(meta(), "aa").expiry_key is None


def test_listing_can_start_at_a_time() -> None:
    """What is as old as T or older sorts after its mark, what is a microsecond younger before it."""
    for moment in (MIN_US + 1, 0, 10**15):
        mark = s3_keys.not_after(SAGA, moment)
        assert SavedEntry.of(meta(moment, MAX_STEP_INDEX, 2**128 - 1), "aa").key > mark
        assert SavedEntry.of(meta(moment + 1, -MAX_STEP_INDEX - 1, 0), "aa").key < mark


def test_behind_a_saga_is_before_the_next() -> None:
    """Sagas can be skipped without listing them."""
    mark = s3_keys.behind_saga(SAGA)
    assert SavedEntry.of(meta(MIN_US, -MAX_STEP_INDEX - 1, 0), "f" * 16).key < mark
    assert mark < s3_keys.saga_prefix(UUID(int=SAGA.int + 1))


def test_unknown_token_is_the_same_save() -> None:
    """An object without its mark is recognised by the rest; with it, only by the very save."""
    mine, other, told = (SavedEntry.of(meta(retention_us=5), token) for token in ("aa", "bb", ""))
    assert not mine.is_same_save(other)
    assert told.is_same_save(mine)
    assert mine.is_same_save(told)
    assert not told.is_same_save(SavedEntry.of(meta(retention_us=6), "aa"))
    assert mine.has_expiry_key(str(mine.expiry_key))
    assert not mine.has_expiry_key(str(other.expiry_key))
    assert told.has_expiry_key(str(other.expiry_key))


@pytest.mark.parametrize(
    "name", ["", "a/b/../c", "x" * 65_000, "nul\x00", "half\ud800", "line\nbreak", "支払い", "%2F%00"], ids=range(8)
)
def test_names_are_never_in_a_key(name: str) -> None:
    """Whatever a step is called, keys are short plain ASCII."""
    entry = SavedEntry.of(meta(step=name), "0" * 16)
    assert entry.key.isascii()
    assert len(entry.key) < 180
    assert SavedEntry.parse(entry.key) == entry


@pytest.mark.parametrize(
    "key",
    [
        "",
        "sagas/",
        f"sagas/{SAGA}/",
        f"sagas/{SAGA}/readme.txt",
        f"sagas/no-saga/{'0' * 56}-{'0' * 16}-{'0' * 16}-0",
        f"sagas/{SAGA}/{'0' * 55}-{'0' * 16}-{'0' * 16}-0",
        SavedEntry.of(meta(), "aa").key + "/more",
        SavedEntry.of(meta(), "aa").key.upper(),
    ],
)
def test_foreign_keys_are_no_entries(key: str) -> None:
    """What others put beside ours is not taken for ours."""
    assert SavedEntry.parse(key) is None
    assert s3_keys.parse_expiry(key) is None
    assert s3_keys.parse_replayed(key) is None
    assert s3_keys.parse_replay(key) is None
