"""What the installed `sagaz` lets people write works here too: held against its own classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sagaz.core.replay
from botocore.config import Config
from sagaz.core.storage.backends import filesystem_snapshot, memory_snapshot
from sagaz.core.storage.backends.postgresql import snapshot as postgresql_snapshot
from sagaz.core.storage.backends.redis import snapshot as redis_snapshot
from sagaz.core.storage.backends.s3 import snapshot as s3_snapshot
from sagaz.core.storage.interfaces.snapshot import SnapshotStorage as Interface
from support.snapshots import SAGA, number
from support.stores import MakePlace, Place
from support.tiers import NOW

import sagaz_tiering
from sagaz_tiering.errors import ConfigError, InvalidSnapshot
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

THEIRS: dict[str, Any] = {
    "InMemorySnapshotStorage": memory_snapshot.InMemorySnapshotStorage,
    "FilesystemSnapshotStorage": filesystem_snapshot.FilesystemSnapshotStorage,
    "RedisSnapshotStorage": redis_snapshot.RedisSnapshotStorage,
    "PostgreSQLSnapshotStorage": postgresql_snapshot.PostgreSQLSnapshotStorage,
    "S3SnapshotStorage": s3_snapshot.S3SnapshotStorage,
}
VALUES = ("SagaSnapshot", "ReplayConfig", "ReplayResult")
URL = "postgresql://user:secret@localhost/db"


def check_takes_the_same(ours: Any, theirs: Any) -> None:
    """Every call that `theirs` takes `ours` takes, by position and by name; what it takes besides nobody need give."""
    mine, wanted = (inspect.signature(each).parameters for each in (ours, theirs))
    for place, (name, parameter) in enumerate(wanted.items()):
        if parameter.kind is parameter.VAR_KEYWORD:
            assert any(each.kind is each.VAR_KEYWORD for each in mine.values()), f"no **{name}"
            continue
        assert list(mine)[place] == name
        assert mine[name].kind is parameter.kind
        if parameter.default is not parameter.empty:
            assert mine[name].default == parameter.default
    for name in mine.keys() - wanted.keys():
        assert mine[name].kind is not mine[name].POSITIONAL_OR_KEYWORD
        assert mine[name].default is not mine[name].empty or mine[name].kind is mine[name].VAR_KEYWORD


@pytest.mark.parametrize("name", [*THEIRS, "TieredSnapshotStorage"])
def test_methods_take_what_those_of_the_interface_take(name: str) -> None:
    """Each method of sagaz's interface, by the same names in the same order with the same defaults, on all six."""
    for method in Interface.__abstractmethods__:
        check_takes_the_same(getattr(getattr(sagaz_tiering, name), method), getattr(Interface, method))


@pytest.mark.parametrize("name", THEIRS)
def test_constructors_and_public_methods_take_what_those_of_sagaz_take(name: str) -> None:
    """The constructor, with its `**kwargs`, and whatever else is public in sagaz's class of the same name."""
    ours, theirs = getattr(sagaz_tiering, name), THEIRS[name]
    public = [each for each, found in vars(theirs).items() if inspect.isfunction(found) and not each.startswith("_")]
    for method in ["__init__", *public]:
        check_takes_the_same(getattr(ours, method), getattr(theirs, method))


@pytest.mark.parametrize("name", VALUES)
def test_values_are_made_as_those_of_sagaz(name: str) -> None:
    """Snapshots, configurations and results of replays, `SagaSnapshot.create` among them, by position too."""
    ours, theirs = getattr(sagaz_tiering, name), getattr(sagaz.core.replay, name)
    check_takes_the_same(ours, theirs)
    if name == "SagaSnapshot":
        check_takes_the_same(ours.create, theirs.create)


def test_attributes_are_those_of_sagaz(tmp_path: Path) -> None:
    """What sagaz's storages keep of their arguments in public is there under the same name, and the same."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("InMemorySnapshotStorage", (), {}),
        ("FilesystemSnapshotStorage", (str(tmp_path), True, False), {}),
        ("RedisSnapshotStorage", ("redis://localhost:6379/2", "p:", 60, True, 5), {"password": "p"}),
        ("PostgreSQLSnapshotStorage", (URL, 1, 3), {"ssl": False, "max_queries": 1000}),
        ("S3SnapshotStorage", ("bucket", "eu-west-1", "p/", False, 5, False, "GLACIER"), {"use_ssl": True}),
    ]
    for name, args, kwargs in calls:
        ours, theirs = getattr(sagaz_tiering, name)(*args, **kwargs), THEIRS[name](*args, **kwargs)
        public = {each: found for each, found in vars(theirs).items() if not each.startswith("_")}
        assert {each: getattr(ours, each) for each in public} == public


def test_options_reach_the_driver() -> None:
    """Options that sagaz hands on are those of the connections, of the pool and of the client."""
    redis: Any = sagaz_tiering.RedisSnapshotStorage(
        password="p", ssl=True, ssl_ca_certs="/ca.pem", socket_timeout=5, max_connections=7, retry_on_timeout=True
    )
    options = redis._options
    assert options.address.options["password"] == "p"
    assert options.address.options["ssl_ca_certs"] == "/ca.pem"
    assert options.address.options["connection_class"].__name__ == "SSLConnection"
    assert (options.socket_timeout, options.max_connections) == (timedelta(seconds=5), 7)
    told: Any = sagaz_tiering.RedisSnapshotStorage("redis://:of-url@localhost", password="p")
    assert told._options.address.options["password"] == "of-url"
    pool: Any = sagaz_tiering.PostgreSQLSnapshotStorage(URL, password="p", ssl="require", command_timeout=7)
    assert pool._driver_options == {"statement_cache_size": 100, "password": "p", "ssl": "require"}
    assert pool._settings.command_timeout == timedelta(seconds=7)
    config = Config(proxies={"https": "http://proxy:3128"}, max_pool_connections=3)
    s3: Any = sagaz_tiering.S3SnapshotStorage(
        "bucket", aws_access_key_id="id", aws_secret_access_key="key", aws_session_token="token", config=config
    )
    assert s3._options.credentials() == {"access_key_id": "id", "secret_access_key": "key", "session_token": "token"}
    sdk = s3._options.client_config()
    assert (sdk.proxies, sdk.max_pool_connections) == ({"https": "http://proxy:3128"}, 3)
    assert (sdk.signature_version, sdk.http_session_cls.__name__) == ("s3v4", "_CheckedSession")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sagaz_tiering.RedisSnapshotStorage(pasword="p"), "'pasword'"),
        (lambda: sagaz_tiering.RedisSnapshotStorage(decode_responses=True), "bytes, not text"),
        (lambda: sagaz_tiering.RedisSnapshotStorage(ssl_ca_certs="/ca.pem"), "for TLS"),
        (lambda: sagaz_tiering.RedisSnapshotStorage("unix:///r.sock", ssl=True), "Unix socket"),
        (lambda: sagaz_tiering.RedisSnapshotStorage(socket_timeout=0), "socket_timeout must be"),
        (lambda: sagaz_tiering.RedisSnapshotStorage(socket_timeout="5"), "socket_timeout must be"),  # type: ignore[arg-type]
        (lambda: sagaz_tiering.PostgreSQLSnapshotStorage(URL, max_size=3), "'max_size'"),
        (lambda: sagaz_tiering.S3SnapshotStorage("b", aws_access_key="x"), "'aws_access_key'"),
        (lambda: sagaz_tiering.S3SnapshotStorage("b", aws_session_token="x"), "half of a credential"),
        (lambda: sagaz_tiering.S3SnapshotStorage("b", checksums="always"), "'always'"),  # type: ignore[arg-type]
        (lambda: sagaz_tiering.S3SnapshotStorage("b", verify=False), "verify=False"),
        (lambda: sagaz_tiering.S3SnapshotStorage("b", use_ssl=False), "use_ssl=False"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(make: Callable[[], object], message: str) -> None:
    """At once, by name, and not where the first connection is made."""
    with pytest.raises(ConfigError, match=message):
        make()


async def test_servers_of_a_storage_are_reached_as_in_sagaz(make_place: MakePlace) -> None:
    """`await storage._get_pool()` makes the tables; the clients of Redis and S3 may be awaited as well."""
    place = await make_place("postgresql")
    options = {"server_settings": {"application_name": "shop"}, "timeout": 20, "command_timeout": 20}
    postgresql: Any = await place.open(**options)
    pool = await postgresql._get_pool()
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM saga_snapshots") == 0
        assert await connection.fetchval("SHOW application_name") == "shop"
        assert await connection.fetchval("SHOW timezone") == "UTC"
    assert await pool.fetch("SELECT * FROM saga_replay_log") == []
    redis: Any = await (await make_place("redis")).open(socket_timeout=30, client_name="shop", protocol=2)
    client = await redis._get_redis()
    assert await client.client_getname() in ("shop", b"shop")
    place = await make_place("s3")
    s3: Any = await place.open()
    answer = await (await s3._get_s3_client()).list_objects_v2(Bucket=s3.bucket_name)
    assert answer["KeyCount"] == 0


async def test_names_of_the_interface_are_taken(storage: SnapshotStorage) -> None:
    """Calls by keyword, as sagaz's engine and its users make them, for snapshots and replays."""
    result = sagaz.core.replay.ReplayResult(
        replay_id=number(9),
        original_saga_id=SAGA,
        new_saga_id=number(8),
        checkpoint_step="pay",
        replay_status=sagaz.core.replay.ReplayStatus.SUCCESS,
        created_at=NOW,
    )
    await storage.save_replay_log(replay_result=result)  # type: ignore[arg-type]  # sagaz's
    record = await storage.get_replay_log(replay_id=number(9))
    assert record is not None
    assert record["new_saga_id"] == str(number(8))
    assert await storage.list_replays(original_saga_id=SAGA, limit=5) == [record]


async def test_text_that_is_no_uuid_is_the_id_of_nothing(place: Place, storage: SnapshotStorage) -> None:
    """As in sagaz: None, an empty list, False or 0, on every storage and by keyword too; nothing is asked for it."""
    for unknown in ("", "order-17", "../../etc/passwd", f"{SAGA}x"):
        assert await storage.get_snapshot(unknown) is None
        assert await storage.get_latest_snapshot(saga_id=unknown, before_step="pay") is None
        assert await storage.get_snapshot_at_time(unknown, NOW) is None
        assert await storage.list_snapshots(saga_id=unknown, limit=3) == []
        assert await storage.delete_snapshot(unknown) is False
        assert type(await storage.cleanup_saga(unknown)) is int
        assert await storage.get_replay_log(unknown) is None
        assert await storage.list_replays(original_saga_id=unknown) == []


def test_equal_to_the_engines_own() -> None:
    """A snapshot of ours equals the one of sagaz with the same contents, whichever side is asked, and no other."""
    fields: dict[str, Any] = {
        "snapshot_id": number(1),
        "saga_id": SAGA,
        "saga_name": "order",
        "step_name": "pay",
        "step_index": 1,
        "status": "executing",
        "context": {"n": 1},
        "completed_steps": ["a"],
        "created_at": NOW,
    }
    ours, theirs = SagaSnapshot(**fields), sagaz.core.replay.SagaSnapshot(**fields)
    assert ours == theirs
    assert theirs == ours
    assert not ours != theirs  # noqa: SIM202  # the other operator is what is asked
    theirs.context = {"n": 2}
    assert ours != theirs
    assert theirs != ours
    theirs.context, theirs.created_at = {"n": 1}, NOW.replace(tzinfo=None)
    assert ours != theirs
    assert ours != fields
    assert ours == SagaSnapshot(**fields)


async def test_what_is_no_text_is_no_id(storage: SnapshotStorage) -> None:
    """A number, bytes or None where an id belongs is an error that names the argument, not a miss."""
    bad: Any
    for bad in (7, None, b"x" * 16):
        calls = [
            storage.get_snapshot(bad),
            storage.get_latest_snapshot(bad),
            storage.get_snapshot_at_time(bad, NOW),
            storage.list_snapshots(bad),
            storage.delete_snapshot(bad),
            storage.cleanup_saga(bad),
        ]
        for call in calls:
            with pytest.raises(InvalidSnapshot, match="_id must be a UUID"):
                await call
