"""`S3ObjectStore` where S3 is not a well-behaved single bucket: versions, uploads in parts, failures, other stores.

moto answers what it can; a scripted HTTP server answers the rest, and sits between store and moto where an answer
must get lost on the way.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.s3_server import (
    Answer,
    Drop,
    Hang,
    Request,
    S3Server,
    ScriptedServer,
    forward,
    free_port,
    s3_options,
    s3_server,  # noqa: F401  # a fixture
    xml_error,
)

from sagaz_tiering.errors import (
    AccessRefused,
    BucketUnusable,
    ColdTierUnavailable,
    ConfigError,
    CorruptPack,
    CredentialsUnavailable,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    SagazTieringError,
)
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.objects.s3.options import MIB
from sagaz_tiering.objects.s3.store import S3ObjectStore, S3RecordStore
from sagaz_tiering.storage_class import StorageClass

IA = StorageClass.STANDARD_IA
GLACIER = StorageClass.GLACIER
DATA = b"the bytes of a pack"
SHA256 = hashlib.sha256(DATA).digest()
QUICK = timedelta(seconds=0.4)

Reply = Answer | type[Hang] | type[Drop]


async def put(store: S3ObjectStore, key: str, data: bytes = DATA, storage_class: StorageClass = IA) -> None:
    await store.put(key, data, storage_class=storage_class, sha256=hashlib.sha256(data).digest())


@asynccontextmanager
async def opened(endpoint: str, bucket: str = "bucket", **changes: Any) -> AsyncIterator[S3ObjectStore]:
    async with await S3ObjectStore.open(s3_options(endpoint, bucket, **changes)) as store:
        yield store


@asynccontextmanager
async def scripted(
    reply: Callable[[Request], Reply], **changes: Any
) -> AsyncIterator[tuple[S3ObjectStore, ScriptedServer]]:
    """A store whose server answers what `reply` says."""

    async def script(request: Request) -> Reply:
        return reply(request)

    async with ScriptedServer(script) as server, opened(server.endpoint, **changes) as store:
        yield store, server


@asynccontextmanager
async def between(
    upstream: S3Server, bucket: str, meddle: Callable[[Request, Answer], Reply], **changes: Any
) -> AsyncIterator[tuple[S3ObjectStore, ScriptedServer]]:
    """A store that reaches moto through a server that has the last word on each answer."""

    async def script(request: Request) -> Reply:
        return meddle(request, await forward(request, upstream.endpoint))

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket, **changes) as store:
        yield store, server


def always(answer: Answer) -> Callable[[Request], Awaitable[Answer]]:
    async def script(_: Request) -> Answer:
        return answer

    return script


def replies(*answers: Reply) -> Callable[[Request], Reply]:
    """One after another; the last one for ever."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


# ---- a server that fails


async def test_server_down_is_unavailable_for_every_call() -> None:
    """Nobody listening is `ColdTierUnavailable`, soon, and says where it looked."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    async with opened(endpoint, attempts=2, request_timeout=timedelta(seconds=5)) as store:
        for call in every_call(store):
            with pytest.raises(ColdTierUnavailable) as caught:
                await call
            assert endpoint in caught.value.hint
            assert not caught.value.permanent


async def test_server_that_never_answers_is_unavailable_at_the_deadline() -> None:
    """A server that takes the request and stays silent costs one deadline, not for ever."""
    async with scripted(replies(Hang), request_timeout=QUICK) as (store, _):
        for call in every_call(store):
            started = time.monotonic()
            with pytest.raises(ColdTierUnavailable, match=r"0\.4 s"):
                await call
            assert time.monotonic() - started < 120


async def test_cut_body_is_asked_for_again() -> None:
    """A download that breaks off in the middle is repeated, and the whole object comes back."""
    cut, whole = Answer(body=DATA, cut_at=7), Answer(body=DATA)
    async with scripted(replies(cut, cut, whole)) as (store, server):
        assert await store.get("a.pack") == DATA
        assert len(server.requests) == 3


async def test_body_always_cut_is_unavailable() -> None:
    """A body that never arrives whole is an error, never fewer bytes."""
    async with scripted(replies(Answer(body=DATA, cut_at=7)), attempts=3) as (store, server):
        with pytest.raises(ColdTierUnavailable, match="GetObject"):
            await store.get("a.pack")
        assert len(server.requests) == 3


async def test_body_that_stalls_is_unavailable_at_the_deadline() -> None:
    """A download that stops without closing meets the same deadline."""
    stalling = Answer(body=DATA, cut_at=4, stall=True)
    async with scripted(replies(stalling), request_timeout=QUICK) as (store, _):
        with pytest.raises(ColdTierUnavailable, match="within"):
            await store.get("a.pack")


@pytest.mark.parametrize("failure", [xml_error(503, "SlowDown"), xml_error(500, "InternalError"), Drop])
async def test_storm_that_ends_is_ridden_out(failure: Reply) -> None:
    """Transient failures are retried until the store recovers."""
    async with scripted(replies(failure, failure, failure, Answer(body=DATA))) as (store, server):
        assert await store.get("a.pack") == DATA
        assert len(server.requests) == 4


async def test_storm_over_a_put_sends_the_bytes_again_whole(s3_server: S3Server) -> None:  # noqa: F811
    """A put that met three 503s stores the object once and whole."""
    bucket = await s3_server.make_bucket()
    storm = [xml_error(503, "SlowDown") for _ in range(3)]

    async def script(request: Request) -> Reply:
        if request.method == "PUT" and storm:
            return storm.pop()
        return await forward(request, s3_server.endpoint)

    data = bytes(range(256)) * 8000
    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        await put(store, "a.pack", data)
        assert [len(request.body) for request in server.seen("PUT")] == [len(data)] * 4
        assert await store.get("a.pack") == data


async def test_storm_without_end_stops_at_the_budget() -> None:
    """Every call gives up after its attempts, with the store's own words, and calls it transient."""
    async with scripted(replies(xml_error(503, "SlowDown", "Please reduce")), attempts=3) as (store, server):
        for number, call in enumerate(every_call(store), start=1):
            with pytest.raises(ColdTierUnavailable, match=r"SlowDown|503"):
                await call
            assert len(server.requests) == 3 * number


async def test_deadline_bounds_the_retries_too() -> None:
    """However many attempts are allowed, all of them together end at the deadline and name the last failure."""
    reply = replies(xml_error(503, "SlowDown"))
    changes: dict[str, Any] = {"attempts": 10_000, "backoff": timedelta(seconds=1)}
    for seconds in (0.4, 4, 40):  # on a busy machine there may be no failure to name so soon
        async with scripted(reply, **changes, request_timeout=timedelta(seconds=seconds)) as (store, server):
            started = time.monotonic()
            with pytest.raises(ColdTierUnavailable, match=rf"{seconds} s") as caught:
                await store.get("a.pack")
            assert time.monotonic() - started < 120
        if "SlowDown" in str(caught.value):
            break
    assert "SlowDown" in str(caught.value)
    assert 0 < len(server.requests) < 10_000


async def test_cancelled_call_is_cancelled() -> None:
    """Cancelling a caller ends its call with CancelledError, not with an error of ours, and frees the slot."""
    async with scripted(replies(Hang, Answer(body=DATA)), max_connections=1) as (store, server):
        task = asyncio.create_task(store.get("a.pack"))
        await until(lambda: bool(server.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.get("a.pack") == DATA


async def test_wait_for_a_connection_is_not_part_of_the_deadline() -> None:
    """A caller that waited behind two that ran into their deadlines still has all of its own."""
    deadline = timedelta(seconds=3)  # which the third must meet, on a busy machine too
    answers = replies(Hang, Hang, Answer(body=DATA))
    async with scripted(answers, max_connections=1, request_timeout=deadline) as (store, _):
        started = time.monotonic()
        results = await asyncio.gather(*(store.get("a.pack") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ColdTierUnavailable, ColdTierUnavailable, bytes]
        assert time.monotonic() - started >= 2 * deadline.total_seconds(), "one deadline after the other"


async def test_callers_beyond_the_connections_wait() -> None:
    """With two connections, fifty calls never are more than two at once, and none fails."""
    now, most = 0, 0

    async def script(request: Request) -> Reply:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(5):
            await asyncio.sleep(0)
        now -= 1
        return Answer(body=DATA)

    async with ScriptedServer(script) as server, opened(server.endpoint, max_connections=2) as store:
        assert await asyncio.gather(*(store.get("a.pack") for _ in range(50))) == [DATA] * 50
    assert most == 2


@pytest.mark.parametrize(
    ("answer", "error", "hint"),
    [
        (xml_error(403, "AccessDenied"), AccessRefused, r"s3:GetObject.*bucket"),
        (xml_error(403, "InvalidAccessKeyId"), BucketUnusable, "access key"),
        (xml_error(403, "SignatureDoesNotMatch"), BucketUnusable, "secret"),
        (xml_error(400, "ExpiredToken"), CredentialsUnavailable, "credentials"),
        (xml_error(403, "QuotaExceeded"), BucketUnusable, "quota"),
        (xml_error(507, "XMinioStorageFull"), BucketUnusable, "full"),
        (xml_error(400, "KMS.DisabledException"), BucketUnusable, "enable it"),
        (xml_error(400, "KMS.ThrottlingException"), ColdTierUnavailable, "KMS"),
        (xml_error(403, "AccessDenied", "not authorized to perform: kms:Decrypt"), AccessRefused, "KMS key"),
        (xml_error(403, "AccessDenied", "Bucket is requester pays"), AccessRefused, "Requester Pays"),
        (xml_error(403, "RequestTimeTooSkewed"), BucketUnusable, "clock"),
        (xml_error(404, "NoSuchBucket"), BucketUnusable, "create the bucket bucket"),
        (xml_error(404, "NoSuchKey"), ObjectNotFound, ""),
        (xml_error(403, "InvalidObjectState"), ObjectArchived, "restore"),
        (xml_error(501, "NotImplemented"), ObjectStoreError, "encryption: none"),
        (xml_error(400, "RequestTimeout"), ColdTierUnavailable, "reachable"),
        (xml_error(429, "TooManyRequests"), ColdTierUnavailable, "reachable"),
        (Answer(status=200, body=b"<html>a proxy's page", cut_at=5), ColdTierUnavailable, "reachable"),
        (Answer(status=502, body=b"<html>bad gateway"), ColdTierUnavailable, "reachable"),
    ],
)
async def test_answers_become_errors_that_say_what_to_do(
    answer: Answer, error: type[SagazTieringError], hint: str
) -> None:
    """Each answer of S3 has one error, and where people can help, a hint that says how."""
    async with scripted(replies(answer), attempts=1) as (store, _):
        with pytest.raises(error) as caught:
            await store.get("a.pack")
        assert type(caught.value) is error
        assert "GetObject" in str(caught.value)
        assert re.search(hint, caught.value.hint)


async def test_head_without_a_time_is_an_error_of_that_object() -> None:
    """What is no answer of S3 ends in an error of ours, that of one object."""
    async with scripted(replies(Answer(headers={"Content-Length": "19"}))) as (store, _):
        with pytest.raises(ObjectStoreError, match=r"a\.pack"):
            await store.head("a.pack")


async def test_bucket_elsewhere_is_named_with_its_region() -> None:
    """A bucket in another region tells which region to configure."""
    redirect = xml_error(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-west-1"})
    async with scripted(replies(redirect), attempts=1) as (store, _):
        with pytest.raises(BucketUnusable) as caught:
            await store.check()
        assert "tiers.cold.region: eu-west-1" in caught.value.hint


async def test_answer_with_foreign_bytes_is_corrupt() -> None:
    """Bytes that do not have the checksum that S3 sends along are refused."""
    wrong = {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(b"else").digest()).decode()}
    async with scripted(replies(Answer(body=DATA, headers=wrong)), checksums="when_supported") as (store, _):
        with pytest.raises(CorruptPack):
            await store.get("a.pack")


async def test_range_that_the_store_ignores_is_cut_here() -> None:
    """A store that answers a range with the whole object does not make us read the wrong bytes."""
    async with scripted(replies(Answer(status=200, body=DATA))) as (store, server):
        assert await store.get_range("a.pack", 4, 5) == DATA[4:9]
        assert server.requests[0].headers["range"] == "bytes=4-8"
        with pytest.raises(CorruptPack):
            await store.get_range("a.pack", 4, len(DATA))


# ---- writing


@pytest.mark.parametrize("told", [True, False])
async def test_object_that_is_too_large_is_not_read(told: bool) -> None:
    """An object where only a small one can be is refused by its length, or after as many bytes where none is told."""
    answer = Answer(body=b"x" * 100, headers={"Content-Length": str(10**12)}, cut_at=100, stall=True)
    if not told:
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        answer = Answer(body=chunk, headers={"Transfer-Encoding": "chunked"}, stall=True)
    async with scripted(replies(answer)) as (store, _):
        with pytest.raises(CorruptPack, match="more than the 64 bytes"):
            await store.get("owner.json", most=64)
    async with (
        ScriptedServer(always(answer)) as server,
        await S3RecordStore.open(s3_options(server.endpoint, "bucket")) as records,
    ):
        with pytest.raises(CorruptPack, match="more than the 64 bytes"):
            await records.fetch("data/1", most=64)


async def test_range_that_the_store_ignores_is_not_read_to_its_end() -> None:
    """A store that answers a range with the whole object costs no more memory than what was asked for."""
    endless = Answer(body=DATA, headers={"Content-Length": str(10**12)}, stall=True)
    async with scripted(replies(endless)) as (store, _):
        assert await store.get_range("a.pack", 4, 5) == DATA[4:9]


async def test_put_whose_answer_was_lost_succeeds(s3_server: S3Server) -> None:  # noqa: F811
    """The repeated put meets the object that its first attempt made, and that is success."""
    bucket = await s3_server.make_bucket()
    lost: list[Reply] = [Drop, xml_error(503, "SlowDown")]

    def meddle(request: Request, answer: Answer) -> Reply:
        return lost.pop() if request.method == "PUT" and lost else answer

    async with between(s3_server, bucket, meddle) as (store, server):
        await put(store, "a.pack")
        assert len(server.seen("PUT")) == 3
        assert await store.get("a.pack") == DATA


async def test_put_that_loses_a_race_while_retrying_is_refused(s3_server: S3Server) -> None:  # noqa: F811
    """Somebody else's object is not taken for ours because its bytes are equal."""
    bucket = await s3_server.make_bucket()
    async with opened(s3_server.endpoint, bucket) as other:
        storm = [xml_error(503, "SlowDown")]

        async def script(request: Request) -> Reply:
            if request.method == "PUT" and storm:
                await put(other, "a.pack")
                return storm.pop()
            return await forward(request, s3_server.endpoint)

        async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
            with pytest.raises(ObjectExists):
                await put(store, "a.pack")


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted", "Conflict", ""])
@pytest.mark.parametrize("taken", [False, True])
async def test_put_that_meets_a_conflict_is_sent_again(s3_server: S3Server, code: str, taken: bool) -> None:  # noqa: F811
    """A 409 of any code says that another write is under way: sent again it is stored, or meets what that one left."""
    bucket = await s3_server.make_bucket()
    async with opened(s3_server.endpoint, bucket) as other:
        conflicts = [xml_error(409, code) if code else Answer(status=409)]

        async def script(request: Request) -> Reply:
            if request.method == "PUT" and conflicts:
                if taken:
                    await put(other, "a.pack")
                return conflicts.pop()
            return await forward(request, s3_server.endpoint)

        async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
            with pytest.raises(ObjectExists) if taken else nullcontext():
                await put(store, "a.pack")
            assert [request.headers.get("if-none-match") for request in server.seen("PUT")] == ["*", "*"]
            assert await store.get("a.pack") == DATA


async def test_put_that_meets_conflicts_alone_says_that_trying_later_may_help() -> None:
    """After the attempts of one call it is a transient error with what the store said."""
    async with scripted(lambda _: xml_error(409, "Conflict", "in the making")) as (store, server):
        with pytest.raises(ColdTierUnavailable, match=r"Conflict in the making \(HTTP 409\)") as caught:
            await put(store, "a.pack")
        assert "something else changes that key" in caught.value.hint
        assert len(server.seen("PUT")) > 1


LACKING = [xml_error(501, "NotImplemented"), xml_error(405, "MethodNotAllowed")]
"""What stores answer that do not do such things at all."""


@pytest.mark.parametrize("refusal", LACKING)
async def test_store_without_conditional_writes_still_refuses_a_taken_key(refusal: Answer, s3_server: S3Server) -> None:  # noqa: F811
    """Where `If-None-Match` is not implemented, the store looks first, and asks for it only once."""
    bucket = await s3_server.make_bucket()

    async def script(request: Request) -> Reply:
        if "if-none-match" in request.headers:
            return refusal
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        await put(store, "a.pack")
        with pytest.raises(ObjectExists):
            await put(store, "a.pack", b"other")
        assert await store.get("a.pack") == DATA
        await put(store, "b.pack")
        assert sum("if-none-match" in request.headers for request in server.seen("PUT")) == 1


@pytest.mark.parametrize(("checksums", "sent"), [("auto", False), ("when_required", False), ("when_supported", True)])
async def test_put_sends_a_checksum_only_where_asked(checksums: str, sent: bool) -> None:
    """A checksum goes along where configured; without one the signature still covers the bytes."""
    async with scripted(replies(Answer()), checksums=checksums) as (store, server):
        await put(store, "a.pack")
        headers = server.seen("PUT")[0].headers
        assert headers.get("x-amz-checksum-sha256") == (base64.b64encode(SHA256).decode() if sent else None)
        assert not [name for name in headers if "trailer" in name or name.endswith(("crc32", "crc64nvme"))]
        assert headers["x-amz-content-sha256"] == SHA256.hex()
        assert headers["x-amz-meta-sha256"] == SHA256.hex()
        assert headers["if-none-match"] == "*"
        assert headers["x-amz-storage-class"] == "STANDARD_IA"


@pytest.mark.parametrize(
    ("changes", "algorithm", "key_id"),
    [
        ({}, "AES256", None),
        ({"encryption": "sse-kms"}, "aws:kms", None),
        ({"encryption": "sse-kms", "kms_key_id": "alias/packs"}, "aws:kms", "alias/packs"),
        ({"encryption": "none"}, None, None),
    ],
)
async def test_every_write_asks_for_the_encryption(
    changes: dict[str, Any],
    algorithm: str | None,
    key_id: str | None,
    s3_server: S3Server,  # noqa: F811
) -> None:
    """Put, copy and upload in parts all carry the configured encryption, or none."""
    bucket = await s3_server.make_bucket()
    sizes = {"multipart_threshold": 5 * MIB, "multipart_part": 5 * MIB}
    async with between(s3_server, bucket, lambda _, answer: answer, **changes, **sizes) as (store, server):
        await put(store, "a.pack")
        await store.change_class("a.pack", StorageClass.GLACIER_IR)
        await put(store, "big.pack", b"x" * (5 * MIB + 1))
        creating = [r for r in server.seen("PUT") if "partNumber" not in r.target] + server.seen("POST", "uploads")
        assert len(creating) == 3
        for request in creating:
            assert request.headers.get("x-amz-server-side-encryption") == algorithm
            assert request.headers.get("x-amz-server-side-encryption-aws-kms-key-id") == key_id


# ---- uploads in parts

PARTS: dict[str, Any] = {"multipart_threshold": 6 * MIB, "multipart_part": 5 * MIB}
BIG = bytes(range(256)) * (11 * MIB // 256) + b"tail"


@pytest.mark.parametrize("checksums", ["auto", "when_supported"])
async def test_large_object_goes_up_in_parts_and_comes_back(checksums: str, s3_server: S3Server) -> None:  # noqa: F811
    """Above the threshold an object is sent in parts and is an object like any other."""
    bucket = await s3_server.make_bucket()
    async with between(s3_server, bucket, lambda _, answer: answer, checksums=checksums, **PARTS) as (store, server):
        await put(store, "big.pack", BIG, StorageClass.GLACIER_IR)
        assert [len(request.body) for request in server.seen("PUT", "partNumber")] == [5 * MIB, 5 * MIB, MIB + 4]
        info = await store.head("big.pack")
        assert (info.size, info.storage_class) == (len(BIG), StorageClass.GLACIER_IR)
        assert info.sha256 == hashlib.sha256(BIG).digest()
        assert await store.get("big.pack") == BIG
        assert await store.get_range("big.pack", 5 * MIB - 2, 4) == BIG[5 * MIB - 2 : 5 * MIB + 2]
        with pytest.raises(ObjectExists):
            await put(store, "big.pack", BIG)
        assert await s3_server.uploads(bucket) == []
        await put(store, "small.pack")
        assert server.seen("POST", "small.pack") == []


@pytest.mark.parametrize("step", ["partNumber=2", "uploadId"])
async def test_failed_upload_leaves_nothing_behind(step: str, s3_server: S3Server) -> None:  # noqa: F811
    """When a part or the completion fails for good, the upload is aborted and no object appears."""
    bucket = await s3_server.make_bucket()

    async def script(request: Request) -> Reply:
        completing = step == "uploadId" and request.method == "POST" and step in request.target
        if completing or (request.method == "PUT" and step in request.target and step != "uploadId"):
            return xml_error(403, "AccessDenied")
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket, **PARTS) as store:
        with pytest.raises(BucketUnusable):
            await put(store, "big.pack", BIG)
        assert len(server.seen("DELETE", "uploadId")) == 1
        assert await s3_server.uploads(bucket) == []
        with pytest.raises(ObjectNotFound):
            await store.head("big.pack")


async def test_cancelled_upload_leaves_nothing_behind(s3_server: S3Server) -> None:  # noqa: F811
    """A cancelled put aborts its upload before it goes, and stays cancelled."""
    bucket = await s3_server.make_bucket()

    async def script(request: Request) -> Reply:
        return Hang if "partNumber=2" in request.target else await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket, **PARTS) as store:
        task = asyncio.create_task(put(store, "big.pack", BIG))
        await until(lambda: bool(server.seen("PUT", "partNumber=2")))
        assert len(await s3_server.uploads(bucket)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await s3_server.uploads(bucket) == []


async def test_upload_whose_abort_fails_reports_the_first_failure(s3_server: S3Server) -> None:  # noqa: F811
    """A server that goes away in the middle is reported as what it did to the part, not to the abort."""
    bucket = await s3_server.make_bucket()

    async def script(request: Request) -> Reply:
        gone = "partNumber=2" in request.target or request.method == "DELETE"
        return Drop if gone else await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket, attempts=2, **PARTS) as store:
        with pytest.raises(ColdTierUnavailable, match="UploadPart"):
            await put(store, "big.pack", BIG)


async def test_upload_whose_completion_was_not_answered_succeeds(s3_server: S3Server) -> None:  # noqa: F811
    """A completion repeated after a lost answer finds no upload any more, but its own object: success."""
    bucket = await s3_server.make_bucket()
    completions = 0

    async def script(request: Request) -> Reply:
        nonlocal completions
        if request.method == "POST" and "uploadId" in request.target:
            completions += 1
            if completions > 1:  # what S3 says of an upload that is no more
                return xml_error(404, "NoSuchUpload")
            await forward(request, s3_server.endpoint)
            return Drop
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket, **PARTS) as store:
        await put(store, "big.pack", BIG)
        assert completions == 2
        assert await store.get("big.pack") == BIG


async def test_upload_that_a_conflict_ended_says_that_trying_again_may_help(s3_server: S3Server) -> None:  # noqa: F811
    """Completed again after a 409 it is no more, and no object is there: all of it is to be sent anew."""
    bucket = await s3_server.make_bucket()
    answers = [xml_error(404, "NoSuchUpload"), xml_error(409, "ConditionalRequestConflict")]

    async def script(request: Request) -> Reply:
        completing = request.method == "POST" and "uploadId" in request.target
        return answers.pop() if completing and answers else await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket, **PARTS) as store:
        with pytest.raises(ColdTierUnavailable, match="gave up its upload"):
            await put(store, "big.pack", BIG)
        assert await s3_server.uploads(bucket) == []
        await put(store, "big.pack", BIG)
        assert await store.get("big.pack") == BIG


def test_part_size_keeps_uploads_within_the_number_of_parts() -> None:
    """S3 takes at most ten thousand parts: very large objects get larger parts."""
    options = s3_options("http://localhost", "bucket")
    assert options.part_size(64 * MIB) == 16 * MIB
    assert options.part_size(10_000 * 16 * MIB + 1) * 10_000 > 10_000 * 16 * MIB


# ---- classes and restores


async def test_change_class_to_the_present_class_copies_nothing(s3_server: S3Server) -> None:  # noqa: F811
    """Each copy is billed: an object that is in the class already is left alone."""
    bucket = await s3_server.make_bucket()
    async with between(s3_server, bucket, lambda _, answer: answer) as (store, server):
        for storage_class in (StorageClass.STANDARD, IA, GLACIER):
            await put(store, storage_class.value, storage_class=storage_class)
            await store.change_class(storage_class.value, storage_class)
        assert [request for request in server.requests if "x-amz-copy-source" in request.headers] == []


async def test_change_class_of_a_store_that_ignores_classes_is_an_error(s3_server: S3Server) -> None:  # noqa: F811
    """A move that did not happen is not reported as one."""
    bucket = await s3_server.make_bucket()

    async def script(request: Request) -> Reply:
        if "x-amz-copy-source" in request.headers:
            request.headers["x-amz-storage-class"] = "STANDARD"
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        await put(store, "a.pack")
        with pytest.raises(ObjectStoreError, match="STANDARD") as caught:
            await store.change_class("a.pack", GLACIER)
        assert "storage classes" in caught.value.hint


async def test_change_class_does_not_believe_an_error_in_a_200(s3_server: S3Server) -> None:  # noqa: F811
    """S3 may answer a copy with status 200 and an error inside; it is repeated like the failure that it is."""
    bucket = await s3_server.make_bucket()
    errors = [Answer(body=xml_error(200, "InternalError").body, headers={"Content-Type": "application/xml"})]

    async def script(request: Request) -> Reply:
        if "x-amz-copy-source" in request.headers and errors:
            return errors.pop()
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        await put(store, "a.pack")
        await store.change_class("a.pack", GLACIER)
        assert (await store.head("a.pack")).storage_class is GLACIER
        assert len([r for r in server.seen("PUT") if "x-amz-copy-source" in r.headers]) == 2


async def test_restore_under_way_is_seen_and_not_an_error() -> None:
    """S3's answers to a restore that is running are its state."""

    def reply(request: Request) -> Reply:
        if request.method == "POST":
            return xml_error(409, "RestoreAlreadyInProgress")
        if request.method == "HEAD":
            return head_answer(**{"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'})
        return xml_error(403, "InvalidObjectState")

    async with scripted(reply) as (store, _):
        assert await store.restore("a.pack", days=3, tier="Bulk") is RestoreState.IN_PROGRESS
        info = await store.head("a.pack")
        assert (info.restore, info.readable_until) == (RestoreState.IN_PROGRESS, None)
        with pytest.raises(ObjectArchived):
            await store.get("a.pack")


async def test_restored_copy_tells_until_when_it_is_readable() -> None:
    """The end of a restored copy is read from S3's header."""
    header = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'
    answer = head_answer(**{"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-restore": header})
    async with scripted(replies(answer)) as (store, _):
        info = await store.head("a.pack")
        assert (info.storage_class, info.restore) == (StorageClass.DEEP_ARCHIVE, RestoreState.READABLE)
        assert info.readable_until == datetime(2012, 12, 21, tzinfo=UTC)


async def test_restore_asks_for_the_days_and_the_tier() -> None:
    """The request that S3 bills is the one that was asked for; 202 is accepted, 200 is readable already."""
    async with scripted(replies(Answer(status=202), Answer(status=200))) as (store, server):
        assert await store.restore("a.pack", days=9, tier="Expedited") is RestoreState.IN_PROGRESS
        assert await store.restore("a.pack", days=9, tier="Bulk") is RestoreState.READABLE
        assert b"<Days>9</Days>" in server.requests[0].body
        assert b"<Tier>Expedited</Tier>" in server.requests[0].body


@pytest.mark.parametrize("refusal", LACKING)
@pytest.mark.parametrize("reads", [True, False])
async def test_restore_that_the_store_does_not_know(refusal: Answer, reads: bool) -> None:
    """Where there is no RestoreObject, bytes that can be read are readable; others are not called so."""

    def reply(request: Request) -> Reply:
        if request.method == "GET":
            return Answer(status=206, body=DATA[:1]) if reads else xml_error(403, "InvalidObjectState")
        return refusal

    async with scripted(reply) as (store, _):
        if reads:
            assert await store.restore("a.pack", days=1, tier="Bulk") is RestoreState.READABLE
            return
        with pytest.raises(ObjectStoreError, match="RestoreObject"):
            await store.restore("a.pack", days=1, tier="Bulk")


async def test_expedited_restore_without_capacity_says_what_to_do() -> None:
    """S3 may have no capacity for Expedited for hours: no retries, but another tier."""
    busy = xml_error(503, "GlacierExpeditedRetrievalNotAvailable")
    async with scripted(replies(busy)) as (store, server):
        with pytest.raises(ObjectStoreError) as caught:
            await store.restore("a.pack", days=1, tier="Expedited")
        assert "Standard" in caught.value.hint
        assert len(server.requests) == 1


async def test_unknown_classes_of_foreign_objects_do_not_stop_a_listing() -> None:
    """An object that someone else put in a class we do not use is listed, as readable."""
    entry = "<Contents><Key>env/production/{}</Key><Size>3</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    entries = "".join(
        entry.format(key) + f"<StorageClass>{name}</StorageClass></Contents>"
        for key, name in (("", "STANDARD"), ("a", "INTELLIGENT_TIERING"), ("b", "GLACIER"))
    )
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
    async with scripted(replies(Answer(body=body))) as (store, _):
        listed = [(info.key, info.storage_class) async for info in store.list()]
        assert listed == [("a", StorageClass.STANDARD), ("b", StorageClass.GLACIER)]


# ---- buckets that keep versions


@pytest.mark.parametrize("versioning", ["Enabled", "Suspended"])
async def test_change_class_leaves_no_old_version(versioning: str, s3_server: S3Server) -> None:  # noqa: F811
    """A versioned bucket would bill the old class for ever: after each move one version is left, readable."""
    bucket = await s3_server.make_bucket("Enabled")
    async with opened(s3_server.endpoint, bucket) as store:
        await put(store, "a.pack")
        if versioning == "Suspended":
            await set_versioning(s3_server, bucket, "Suspended")
        for storage_class in (StorageClass.GLACIER_IR, StorageClass.ONEZONE_IA, StorageClass.STANDARD):
            await store.change_class("a.pack", storage_class)
            assert await store.get("a.pack") == DATA
            assert len(await s3_server.versions(bucket)) == 1
        await store.change_class("a.pack", GLACIER)
        assert [version["StorageClass"] for version in await s3_server.versions(bucket)] == ["GLACIER"]


@pytest.mark.parametrize("versioning", ["Enabled", "Suspended"])
@pytest.mark.parametrize("silent", ["copy", "copy and head"])
async def test_change_class_leaves_no_old_version_where_the_copy_does_not_tell(
    silent: str,
    versioning: str,
    s3_server: S3Server,  # noqa: F811
) -> None:
    """A store that names no version in its answer to COPY: the one that HEAD named goes, and never the only one."""
    bucket, copied = await s3_server.make_bucket("Enabled"), False

    def meddle(request: Request, answer: Answer) -> Reply:
        nonlocal copied
        is_copy = "x-amz-copy-source" in request.headers
        copied = copied or is_copy
        if not is_copy and not (silent != "copy" and copied and request.method == "HEAD"):
            return answer
        told = {k: v for k, v in answer.headers.items() if "version-id" not in k.lower()}
        return replace(answer, headers=told)

    async with between(s3_server, bucket, meddle) as (store, _):
        await put(store, "a.pack")
        if versioning == "Suspended":
            await set_versioning(s3_server, bucket, "Suspended")
        await store.change_class("a.pack", StorageClass.GLACIER_IR)
        assert [v["StorageClass"] for v in await s3_server.versions(bucket)] == ["GLACIER_IR"]
        copied = False
        await store.change_class("a.pack", StorageClass.ONEZONE_IA)
        assert [v["StorageClass"] for v in await s3_server.versions(bucket)] == ["ONEZONE_IA"]
        assert await store.get("a.pack") == DATA


@pytest.mark.parametrize("versioning", ["Enabled", "Suspended"])
async def test_swap_leaves_no_old_version(versioning: str, s3_server: S3Server) -> None:  # noqa: F811
    """An object that is replaced each minute must not be billed a version each minute."""
    bucket = await s3_server.make_bucket("Enabled")
    async with opened(s3_server.endpoint, bucket) as store:
        await put(store, "mark")
        if versioning == "Suspended":
            await set_versioning(s3_server, bucket, "Suspended")
        for number in range(3):
            _, tag = await store.get_tagged("mark", most=100)
            assert await store.swap("mark", str(number).encode(), tag)
            assert len(await s3_server.versions(bucket)) == 1
        assert await store.get("mark") == b"2"


@pytest.mark.parametrize("store_does", ["ignores", "refuses", "compares_unquoted"])
async def test_swap_without_the_condition_still_sees_who_was_before(store_does: str, s3_server: S3Server) -> None:  # noqa: F811
    """A store may not know `If-Match`, or mean something else by it: a change that can be seen is never overwritten."""
    bucket = await s3_server.make_bucket()

    async def script(request: Request) -> Reply:
        if "if-match" in request.headers and store_does == "refuses":
            return xml_error(501, "NotImplemented")
        if "if-match" in request.headers and store_does == "compares_unquoted":
            return xml_error(412, "PreconditionFailed")
        headers = {name: value for name, value in request.headers.items() if name != "if-match"}
        return await forward(replace(request, headers=headers), s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        await put(store, "mark")
        _, tag = await store.get_tagged("mark", most=100)
        assert await store.swap("mark", b"second", tag)
        if store_does != "ignores":
            assert not await store.swap("mark", b"third", tag)
            assert await store.get("mark") == b"second"


async def test_change_class_finishes_what_a_crash_left(s3_server: S3Server) -> None:  # noqa: F811
    """A copy whose process died before it removed the old version is completed by asking again."""
    bucket = await s3_server.make_bucket("Enabled")
    async with opened(s3_server.endpoint, bucket) as store:
        await put(store, "a.pack")
        await put(store, "a.pack.neighbour")
        path = "env/production/a.pack"
        async with s3_server.admin() as client:
            source = {"Bucket": bucket, "Key": path}
            await client.copy_object(Bucket=bucket, Key=path, CopySource=source, StorageClass="GLACIER")
        assert len(await s3_server.versions(bucket)) == 3
        await store.change_class("a.pack", GLACIER)
        assert sorted(v["Key"] for v in await s3_server.versions(bucket)) == [path, path + ".neighbour"]
        assert (await store.head("a.pack")).storage_class is GLACIER


@pytest.mark.parametrize("storage_class", [GLACIER, StorageClass.GLACIER_IR])
@pytest.mark.parametrize("loss", [Drop, xml_error(503, "SlowDown")])
async def test_copy_whose_answer_was_lost_leaves_no_old_version(
    loss: Reply,
    storage_class: StorageClass,
    s3_server: S3Server,  # noqa: F811
) -> None:
    """A repeated copy does not take its own first result for the old version."""
    bucket = await s3_server.make_bucket("Enabled")
    lost = [loss]

    def meddle(request: Request, answer: Answer) -> Reply:
        return lost.pop() if "x-amz-copy-source" in request.headers and lost else answer

    async with between(s3_server, bucket, meddle) as (store, _):
        await put(store, "a.pack")
        await store.change_class("a.pack", storage_class)
        assert [version["StorageClass"] for version in await s3_server.versions(bucket)] == [storage_class.value]


async def test_old_version_that_stays_is_an_error(s3_server: S3Server) -> None:  # noqa: F811
    """Where the old version may not be removed, the move fails and says which permission is missing."""
    bucket = await s3_server.make_bucket("Enabled")
    refusal = b"<DeleteResult><Error><Key>env/production/a.pack</Key><Code>AccessDenied</Code></Error></DeleteResult>"

    async def script(request: Request) -> Reply:
        return Answer(body=refusal) if "?delete" in request.target else await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        await put(store, "a.pack")
        with pytest.raises(ObjectStoreError, match="billed") as caught:
            await store.change_class("a.pack", GLACIER)
        assert "s3:DeleteObjectVersion" in caught.value.hint


@pytest.mark.parametrize("may_ask", [True, False])
async def test_delete_removes_every_version(may_ask: bool, s3_server: S3Server) -> None:  # noqa: F811
    """Nothing of a deleted key stays in a versioned bucket, also where we may not ask whether it is versioned."""
    bucket = await s3_server.make_bucket("Enabled")
    async with s3_server.admin() as client:
        for key in ("a.pack", "a.pack", "a.pack", "b.pack", "a.pack2"):
            await client.put_object(Bucket=bucket, Key=f"env/production/{key}", Body=DATA)
        await client.delete_object(Bucket=bucket, Key="env/production/b.pack")

    async def script(request: Request) -> Reply:
        if "?versioning" in request.target and not may_ask:
            return xml_error(403, "AccessDenied")
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket, max_connections=2) as store:
        for _ in range(2):
            assert await store.delete(["a.pack", "b.pack", "missing.pack"]) == []
        assert [version["Key"] for version in await s3_server.versions(bucket)] == ["env/production/a.pack2"]
        assert len(server.seen("GET", "?versioning")) == 1


async def test_delete_follows_the_pages_of_one_keys_versions(s3_server: S3Server) -> None:  # noqa: F811
    """A key with more versions than a page holds loses all of them, and no other key's."""
    bucket = await s3_server.make_bucket("Enabled")
    async with s3_server.admin() as client:
        for key in ["a.pack"] * 7 + ["a.pack.more"] * 2:
            await client.put_object(Bucket=bucket, Key=f"env/production/{key}", Body=DATA)

    async def script(request: Request) -> Reply:
        if request.method == "GET" and "?versions" in request.target:
            smaller = Request(
                method="GET", target=request.target + "&max-keys=3", headers=request.headers, body=request.body
            )
            return await forward(smaller, s3_server.endpoint)
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        assert await store.delete(["a.pack"]) == []
        assert [v["Key"] for v in await s3_server.versions(bucket)] == ["env/production/a.pack.more"] * 2
        assert len(server.seen("GET", "?versions")) >= 3


# ---- deleting


async def test_delete_never_names_more_than_a_thousand_keys_at_once() -> None:
    """S3 refuses larger batches; all keys are named, each once."""

    def reply(request: Request) -> Reply:
        return Answer(body=b"<VersioningConfiguration/>" if request.method == "GET" else b"<DeleteResult/>")

    async with scripted(reply) as (store, server):
        assert await store.delete([f"packs/{n}" for n in range(2500)]) == []
        assert [request.body.count(b"<Key>") for request in server.seen("POST", "delete")] == [1000, 1000, 500]


async def test_delete_returns_the_failures_per_key() -> None:
    """Keys that S3 would not remove come back with its reason; keys that were gone do not."""
    body = (
        b"<DeleteResult><Deleted><Key>env/production/a</Key></Deleted>"
        b"<Error><Key>env/production/b</Key><Code>AccessDenied</Code><Message>locked</Message></Error>"
        b"<Error><Key>env/production/c</Key><Code>NoSuchKey</Code></Error></DeleteResult>"
    )

    def reply(request: Request) -> Reply:
        return Answer(body=b"<VersioningConfiguration/>" if request.method == "GET" else body)

    async with scripted(reply) as (store, _):
        failures = await store.delete(["a", "b", "c"])
        assert [(failure.key, failure.reason) for failure in failures] == [("b", "AccessDenied locked")]


@pytest.mark.parametrize("refusal", [xml_error(400, "MissingContentMD5"), *LACKING])
async def test_delete_works_on_stores_without_batches(refusal: Answer, s3_server: S3Server) -> None:  # noqa: F811
    """Where DeleteObjects is refused, keys go one by one."""
    bucket = await s3_server.make_bucket()

    async def script(request: Request) -> Reply:
        if "?delete" in request.target:
            return refusal
        if request.method == "DELETE" and request.target.endswith("locked.pack"):
            return xml_error(403, "AccessDenied")
        return await forward(request, s3_server.endpoint)

    async with ScriptedServer(script) as server, opened(server.endpoint, bucket) as store:
        for key in ("a.pack", "b.pack", "locked.pack"):
            await put(store, key)
        failures = await store.delete(["a.pack", "b.pack", "locked.pack", "missing.pack"])
        assert [failure.key for failure in failures] == ["locked.pack"]
        assert [info.key async for info in store.list()] == ["locked.pack"]


# ---- options


async def test_prefixes_keep_stores_apart(s3_server: S3Server) -> None:  # noqa: F811
    """Two stores in one bucket do not see each other's objects, even with similar prefixes."""
    bucket = await s3_server.make_bucket()
    async with (
        opened(s3_server.endpoint, bucket, prefix="prod") as prod,
        opened(s3_server.endpoint, bucket, prefix="/prod2/") as prod2,
        opened(s3_server.endpoint, bucket, prefix="") as whole,
    ):
        await put(prod, "a")
        await put(prod2, "b")
        assert [info.key async for info in prod.list()] == ["a"]
        assert [info.key async for info in prod2.list()] == ["b"]
        assert [info.key async for info in whole.list()] == ["prod/a", "prod2/b"]
        assert await prod.delete(["b"]) == []
        assert await prod2.get("b") == DATA
        assert [prod.url, whole.url] == [f"s3://{bucket}/prod", f"s3://{bucket}"]


def test_options_never_show_credentials() -> None:
    """Printing the options shows where, not with which key."""
    shown = repr(s3_options("http://localhost", "bucket", session_token="hunter2"))
    assert "testing" not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": ""},
        {"kms_key_id": "alias/k"},
        {"access_key_id": None},
        {"session_token": "t", "access_key_id": None, "secret_access_key": None},
        {"multipart_threshold": 0},
        {"multipart_part": 0},
        {"attempts": 0},
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    """A combination that S3 cannot follow is a configuration error."""
    with pytest.raises(ConfigError):
        s3_options("http://localhost", **{"bucket": "bucket", **wrong})


async def test_options_that_no_client_can_be_made_of_are_refused() -> None:
    """An endpoint that is no URL is a configuration error at opening."""
    with pytest.raises(ConfigError, match="localhost-9000"):
        await S3ObjectStore.open(s3_options("localhost-9000", "b"))


def every_call(store: S3ObjectStore) -> list[Any]:
    """One call of each kind, lazily: nothing is sent before it is awaited."""

    async def listed() -> None:
        async for _ in store.list():
            pass

    return [
        store.check(),
        put(store, "a.pack"),
        store.head("a.pack"),
        store.get("a.pack"),
        store.get_range("a.pack", 0, 1),
        store.change_class("a.pack", GLACIER),
        store.restore("a.pack", days=1, tier="Standard"),
        store.delete(["a.pack"]),
        listed(),
    ]


def head_answer(**headers: str) -> Answer:
    return Answer(headers={"Content-Length": "19", "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", **headers})


async def set_versioning(server: S3Server, bucket: str, status: str) -> None:
    async with server.admin() as client:
        await client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


async def until(happened: Callable[[], bool]) -> None:
    """Poll the real server's side of an exchange, with a deadline."""
    async with asyncio.timeout(300):
        while not happened():  # noqa: ASYNC110  # what is polled is another process's doing
            await asyncio.sleep(0.005)
