"""The console: the store in a browser, and the same as JSON, served beside the daemon's jobs.

It shows what other rooms know and calls what they offer; it knows no tier of its own, keeps nothing but who logged in,
and never fetches archived bytes or lists a bucket for a look.
"""

from sagaz_tiering.console.server import serve_console

__all__ = ["serve_console"]
