"""AWS signature version 4 of the embedded S3 server: made by us, and looked at for every request. botocore signs."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from http.client import HTTPMessage

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_SCHEME = "AWS4-HMAC-SHA256"


def signed_headers(method: str, url: str, *, key_id: str, secret: str, region: str) -> dict[str, str]:
    """The headers of a request without body."""
    request = AWSRequest(method, url)
    S3SigV4Auth(Credentials(key_id, secret), "s3", region).add_auth(request)
    return dict(request.headers.items())


def is_signed(method: str, path: str, query: str, headers: Mapping[str, str], *, key_id: str, secret: str) -> bool:
    """Whether the request is signed with this key.

    `path` and `query` are as they were sent, names of headers in lower case. The body is not compared with the signed
    header `x-amz-content-sha256`.
    """
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    signer, *scope = parts.get("Credential", "").split("/")
    names = parts.get("SignedHeaders", "").split(";")
    if scheme != _SCHEME or signer != key_id or "host" not in names or len(scope) != 4:
        return False
    signing = _AsSigned(Credentials(key_id, secret), service_name=scope[2], region_name=scope[1])
    url = f"http://{headers.get('host', '')}{path}?{query}"
    request = AWSRequest(method, url, {name: headers.get(name, "") for name in names})
    request.context["timestamp"] = headers.get("x-amz-date", "")
    found = signing.signature(signing.string_to_sign(request, signing.canonical_request(request)), request)
    return hmac.compare_digest(found.encode(), parts.get("Signature", "").encode())


class _AsSigned(S3SigV4Auth):
    """Takes the headers that the request says it signed, whatever botocore itself would sign."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPMessage:
        return request.headers
