"""The key file: what it may hold, who may read it, and what is said of one that is wrong."""

from __future__ import annotations

import base64
from pathlib import Path
from uuid import uuid4

import pytest

from sagaz_tiering.errors import ConfigError, MasterKeyUnavailable
from sagaz_tiering.keys.key_file import KeyFile, generate, read_key_file
from sagaz_tiering.keys.keyring import CACHE_SECONDS, CACHE_SIZE, Keyring
from sagaz_tiering.keys.master import WrappedKey

GOOD = base64.b64encode(b"m" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    """A key file."""
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_data_key_comes_back(tmp_path: Path) -> None:
    """Wrapped under the first key, opened under whichever wrapped it, bound to its key id and saga."""
    path = written(tmp_path, f"# made by hand\n\nold:{GOOD}\n")
    master = KeyFile(path)
    wrapped = await master.wrap(b"s" * 32, uuid4(), uuid4())
    assert wrapped.master_id == await master.current_id() == "file:old"
    assert b"s" * 32 not in wrapped.wrapped
    written(tmp_path, f"new:{OTHER}\nold:{GOOD}\n")
    assert await master.current_id() == "file:new"
    assert await master.unwrap(wrapped) == b"s" * 32
    for change in ({"saga_id": uuid4()}, {"key_id": uuid4()}, {"wrapped": wrapped.wrapped[:-1] + b"\0"}):
        fields = {name: getattr(wrapped, name) for name in WrappedKey.__dataclass_fields__}
        with pytest.raises(MasterKeyUnavailable, match="does not open"):
            await master.unwrap(WrappedKey(**{**fields, **change}))
    written(tmp_path, f"old:{OTHER}\n")
    with pytest.raises(MasterKeyUnavailable, match="does not open"):
        await master.unwrap(wrapped)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("just text\n", "line 1: is not NAME:BASE64"),
        (f"bad name:{GOOD}\n", "line 1: is not NAME:BASE64"),
        (f"a:{GOOD}\nb:???\n", "line 2: what follows 'b' is not base64"),
        (f"a:{base64.b64encode(b'short').decode()}\n", "line 1: key 'a' has 5 bytes instead of 32"),
        (f"a:{GOOD}\n\na:{OTHER}\n", "line 3: 'a' is there twice"),
        ("\udcff\udcfe:x\n", "line 1: is not NAME:BASE64"),
    ],
)
def test_wrong_file_is_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    """With the reason, and never with the key."""
    path = tmp_path / "keys"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(MasterKeyUnavailable, match=said) as refused:
        read_key_file(path)
    assert GOOD not in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
async def test_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A key that everybody has is none."""
    path = written(tmp_path, f"a:{GOOD}\n", mode)
    with pytest.raises(MasterKeyUnavailable, match="open to others") as refused:
        await KeyFile(path).current_id()
    assert "chmod 600" in refused.value.hint
    path.chmod(0o640)  # as a mounted secret of a group is
    assert await KeyFile(path).current_id() == "file:a"


async def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    """Typed, with what to do."""
    with pytest.raises(MasterKeyUnavailable, match="No such file"):
        await KeyFile(tmp_path / "none").current_id()
    with pytest.raises(MasterKeyUnavailable, match="is not a key file"):
        await KeyFile(tmp_path).current_id()


def test_generated_key_goes_first(tmp_path: Path) -> None:
    """The others stay, mode and order too; a name is not used twice."""
    path = tmp_path / "keys"
    generate(path, "a")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    generate(path, "b")
    assert list(read_key_file(path)) == ["b", "a"]
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(ConfigError, match="already"):
        generate(path, "a")
    with pytest.raises(ConfigError, match="cannot name a key"):
        generate(path, "a:b")
    with pytest.raises(ConfigError, match="cannot be written"):
        generate(tmp_path / "none" / "keys", "a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys"]


class Counting:
    """A master key that counts what is asked of it."""

    def __init__(self) -> None:
        self.asked = 0

    async def current_id(self) -> str:
        return "test:1"

    async def wrap(self, secret: bytes, key_id: object, saga_id: object) -> WrappedKey:
        raise NotImplementedError

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        self.asked += 1
        return b"s" * 32

    async def close(self) -> None:
        """Nothing is open."""


def row() -> WrappedKey:
    """As a catalog would have it."""
    key_id = uuid4()
    return WrappedKey(key_id=key_id, saga_id=uuid4(), wrapped=key_id.bytes, master_id="test:1")


async def test_unwrapped_keys_are_remembered_for_seconds() -> None:
    """Not asked for again at once, asked for again later, and never more than so many are in memory."""
    now, master = [0.0], Counting()
    ring = Keyring(None, master, seconds=lambda: now[0])  # type: ignore[arg-type]  # the catalog is not asked
    first = row()
    await ring.open(first)
    await ring.open(first)
    assert master.asked == 1
    now[0] = CACHE_SECONDS
    await ring.open(first)
    assert master.asked == 2
    for _ in range(CACHE_SIZE + 10):
        await ring.open(row())
    await ring.open(first)
    assert master.asked == 2 + CACHE_SIZE + 10 + 1
    await ring.open(first)
    await ring.close()
    await ring.open(first)
    assert master.asked == 2 + CACHE_SIZE + 10 + 2
