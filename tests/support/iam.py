"""What an IAM policy lets through to an S3 server: each request is the actions that AWS documents for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote, urlsplit

from support.s3_server import Answer, Request, ScriptedServer, forward, xml_error

_OF_BUCKET = {
    "versions": "s3:ListBucketVersions",
    "versioning": "s3:GetBucketVersioning",
    "lifecycle": "s3:GetLifecycleConfiguration",
    "object-lock": "s3:GetBucketObjectLockConfiguration",
    "uploads": "s3:ListBucketMultipartUploads",
}
_OF_OBJECT = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def actions(request: Request) -> Iterator[tuple[str, str]]:
    """Each action of a request, with the ARN that it is asked for on."""
    url = urlsplit(request.target)
    bucket, _, key = unquote(url.path).strip("/").partition("/")
    words = set(re.findall(r"(?:^|&)([\w-]+)", url.query))
    arn = f"arn:aws:s3:::{bucket}"
    if request.method == "POST" and "delete" in words:
        for each in re.findall(rb"<Object>.*?</Object>", request.body, re.DOTALL):
            name = re.search(rb"<Key>(.*?)</Key>", each)
            assert name is not None
            version = b"<VersionId>" in each
            yield "s3:DeleteObjectVersion" if version else "s3:DeleteObject", f"{arn}/{name[1].decode()}"
    elif not key:
        yield next((_OF_BUCKET[word] for word in words if word in _OF_BUCKET), "s3:ListBucket"), arn
    elif request.method == "POST":
        yield "s3:RestoreObject" if "restore" in words else "s3:PutObject", f"{arn}/{key}"
    elif "uploadId" in words and request.method == "DELETE":
        yield "s3:AbortMultipartUpload", f"{arn}/{key}"
    elif "versionId" in words:
        yield f"{_OF_OBJECT[request.method]}Version", f"{arn}/{key}"
    else:
        yield _OF_OBJECT[request.method], f"{arn}/{key}"
        if "x-amz-copy-source" in request.headers:
            source = unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("?")[0]
            yield "s3:GetObject", f"arn:aws:s3:::{source}"


@dataclass(slots=True)
class Guard:
    """Lets through what `policy` allows without what was `taken` from it, and notes what was used and refused."""

    policy: dict[str, Any]
    endpoint: str
    taken: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def allows(self, action: str, arn: str) -> bool:
        """Whether a statement names both."""
        statements = [each for each in self.policy["Statement"] if action in each["Action"]]
        return action not in self.taken and any(fnmatchcase(arn, each["Resource"]) for each in statements)

    async def answer(self, request: Request) -> Answer:
        """Of the server, or that access is denied."""
        asked = list(actions(request))
        self.used |= {action for action, _ in asked}
        refused = {action for action, arn in asked if not self.allows(action, arn)}
        self.refused |= refused
        return xml_error(403, "AccessDenied") if refused else await forward(request, self.endpoint)

    def server(self) -> ScriptedServer:
        """In front of the other one."""
        return ScriptedServer(self.answer)
