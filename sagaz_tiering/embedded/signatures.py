"""AWS signature version 4, as far as the embedded S3 server needs it: made by us, and looked at for every request.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime

SCHEME = "AWS4-HMAC-SHA256"
EMPTY = hashlib.sha256(b"").hexdigest()


def signed_headers(
    method: str, path: str, *, host: str, key_id: str, secret: str, region: str, now: datetime
) -> dict[str, str]:
    """The headers of a request without query and body."""
    moment = f"{now:%Y%m%dT%H%M%SZ}"
    headers = {"host": host, "x-amz-content-sha256": EMPTY, "x-amz-date": moment}
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    found = signature(secret, scope, canonical_request(method, path, "", headers, sorted(headers)), moment)
    credential = f"Credential={key_id}/{scope}, SignedHeaders={';'.join(sorted(headers))}, Signature={found}"
    return {**headers, "Authorization": f"{SCHEME} {credential}"}


def is_signed(method: str, path: str, query: str, headers: Mapping[str, str], *, key_id: str, secret: str) -> bool:
    """Whether the request is signed with this key.

    `path` and `query` are as they were sent, names of headers in lower case. The body is not compared with the signed
    header `x-amz-content-sha256`.
    """
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    signer, _, scope = parts.get("Credential", "").partition("/")
    names = parts.get("SignedHeaders", "").split(";")
    if scheme != SCHEME or signer != key_id or "host" not in names:
        return False
    found = signature(
        secret, scope, canonical_request(method, path, query, headers, names), headers.get("x-amz-date", "")
    )
    return hmac.compare_digest(found, parts.get("Signature", ""))


def canonical_request(method: str, path: str, query: str, headers: Mapping[str, str], names: Sequence[str]) -> str:
    """The text whose digest is signed."""
    pairs = sorted(part.partition("=")[::2] for part in query.split("&") if part)
    lines = [f"{name}:{' '.join(headers.get(name, '').split())}" for name in names]
    return "\n".join(
        (
            method,
            path,
            "&".join(f"{key}={value}" for key, value in pairs),
            *lines,
            "",
            ";".join(names),
            headers.get("x-amz-content-sha256", ""),
        )
    )


def signature(secret: str, scope: str, request: str, moment: str) -> str:
    """The signature of a canonical request at a moment (`YYYYMMDDTHHMMSSZ`)."""
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    digest = hashlib.sha256(request.encode()).hexdigest()
    return _hmac(key, "\n".join((SCHEME, moment, scope, digest))).hex()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
