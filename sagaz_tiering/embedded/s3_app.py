"""The embedded S3 server's process: moto behind a look at every request's signature, never as root.

    python -m sagaz_tiering.embedded.s3_app PORT UID GID [BUCKET]     (UID 0: as we are)

The key comes in the environment (`KEY_ID`, `SECRET`). An unprivileged account may not be able to read the files of this
interpreter, so all that is needed is loaded before the process becomes that account. Signatures (AWS version 4) are
looked at for every request; botocore makes what they should be. READY in the log says that the port is ours.
"""

from __future__ import annotations

import ctypes
import hmac
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPMessage
from importlib import import_module
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEY_ID, SECRET = "SAGAZ_EMBEDDED_S3_KEY_ID", "SAGAZ_EMBEDDED_S3_SECRET"
READY = "ready: the port is ours"
_PR_SET_PDEATHSIG = 1
_FORBIDDEN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>%s</Code><Message>this server takes its own key only</Message></Error>"
)

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _is_signed(method: str, path: str, query: str, headers: Mapping[str, str], *, key_id: str, secret: str) -> bool:
    """Whether the request is signed with this key.

    `path` and `query` are as they were sent, names of headers in lower case. The body is not compared with the signed
    header `x-amz-content-sha256`.
    """
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    signer, *scope = parts.get("Credential", "").split("/")
    names = parts.get("SignedHeaders", "").split(";")
    if scheme != "AWS4-HMAC-SHA256" or signer != key_id or "host" not in names or len(scope) != 4:
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


def _only_signed(app: Wsgi, key_id: str, secret: str) -> Wsgi:
    """`app` for requests that are signed with this key; all others are answered 403."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        }
        path, _, query = environ["REQUEST_URI"].partition("?")
        if _is_signed(environ["REQUEST_METHOD"], path, query, headers, key_id=key_id, secret=secret):
            return app(environ, start_response)
        ours = f"Credential={key_id}/" in headers.get("authorization", "")
        body = _FORBIDDEN % (b"SignatureDoesNotMatch" if ours else b"InvalidAccessKeyId")
        answer = [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), ("Connection", "close")]
        start_response("403 Forbidden", answer)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return guarded


def _warmed_up(bucket: str | None) -> Wsgi:
    """moto, with all that it loads only when it is needed, and with that bucket."""
    for name in ("xml.dom.expatbuilder", "encodings.hex_codec"):  # for uploads in parts
        import_module(name)
    from moto import backends
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.test import Client

    modules = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: modules  # it would list its folder at each request
    app: Wsgi = DomainDispatcherApplication(create_backend_app)
    client = Client(app)
    scope = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    first = {"Authorization": scope}
    delete = b"<Delete><Object><Key>k</Key></Object></Delete>"
    for method, path, body in (
        ("PUT", "/warm", b""),
        ("PUT", "/warm/k", b"x"),
        ("GET", "/warm/k", b""),
        ("HEAD", "/warm/k", b""),
        ("GET", "/warm/missing", b""),
        ("GET", "/warm?list-type=2", b""),
        ("GET", "/warm?versions", b""),
        ("POST", "/warm/k?uploads", b""),
        ("POST", "/warm/k?restore", b"<RestoreRequest><Days>1</Days></RestoreRequest>"),
        ("POST", "/warm?delete", delete),
        ("POST", "/moto-api/reset", b""),
    ):
        client.open(path, method=method, data=body, headers=first).close()
    if bucket is not None and (answer := client.open(f"/{bucket}", method="PUT", headers=first)).status_code != 200:
        sys.exit(f"the bucket {bucket!r} is refused: {answer.get_data(as_text=True)[:300]}")
    return app


def _become(uid: int, gid: int) -> None:
    """Be that account from now on, and still end with our parent."""
    parent = os.getppid()
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # setuid cleared it
        if os.getppid() != parent:
            sys.exit(1)


def main() -> None:
    """Serve until SIGTERM."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler
    from werkzeug.serving import make_server

    port, uid, gid = map(int, sys.argv[1:4])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    app = _only_signed(_warmed_up(next(iter(sys.argv[4:]), None)), os.environ.pop(KEY_ID), os.environ.pop(SECRET))
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)
    if uid:
        _become(uid, gid)
    print(READY, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
