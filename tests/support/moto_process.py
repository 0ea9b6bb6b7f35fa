"""The S3 server of the tests: moto, without what it works out anew for every request and every listed object.

`python -P tests/support/moto_process.py PORT`
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache

from moto.core import serialize
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def main(port: int) -> None:
    """Serve until killed."""
    app = DomainDispatcherApplication(create_backend_app)
    app.get_backend_for_host = cache(app.get_backend_for_host)  # type: ignore[method-assign]  # it looks at 180 folders
    serialize.parse_to_aware_datetime = lru_cache(10_000)(serialize.parse_to_aware_datetime)
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
