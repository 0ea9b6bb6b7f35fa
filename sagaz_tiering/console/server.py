"""The console's HTTP server: who may come in, what every answer carries, which path is which page or document.

Every view is a page at its path and the same as JSON behind `/api/v1`. Whatever goes wrong is a page or a document too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aiohttp import web
from yarl import URL

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.sections import ConsoleSettings
from sagaz_tiering.console.access import COOKIE, Access, TooManyTries, Visitor
from sagaz_tiering.console.actions import ACTIONS, COMPARE, compare, export
from sagaz_tiering.console.documents import Documents
from sagaz_tiering.console.render import STATIC, pages
from sagaz_tiering.console.routes import API, MOST_FILE, Action, Asked, BadQuestion, ConsoleView, Endpoint, NotThere
from sagaz_tiering.console.views import VIEWS, openapi
from sagaz_tiering.daemon.health import DaemonState
from sagaz_tiering.daemon.listening import listening
from sagaz_tiering.errors import ConfigError, InvalidSnapshot, SagazTieringError, TierUnavailable
from sagaz_tiering.logs import Logger

_log = Logger(__name__)
_ANSWER_WITHIN_S: Final = 120.0
_EXPORT_AGAIN_S: Final = 60
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # `no-referrer` would have browsers send forms with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_VISITOR: Final = ContextVar[Visitor | None]("visitor", default=None)
_SHOWS: Final = ContextVar[str]("shows", default="")
"""What a page is of, for the one that says why it cannot be shown."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve_console(settings: ConsoleSettings, state: DaemonState) -> AbstractAsyncContextManager[tuple[str, int]]:
    """Answer while the block runs; gives the address listened on. Raises ConfigError if it cannot be had."""
    application = _Console(settings, state).application()
    return listening(settings.host, settings.port, application, section="console", request_within_s=_ANSWER_WITHIN_S)


class _Console:
    def __init__(self, settings: ConsoleSettings, state: DaemonState) -> None:
        self._access = Access(settings, time.monotonic)
        self._documents = Documents(state, time.monotonic)
        self._pages = pages(settings)
        self._comparing = asyncio.Lock()
        self._exporting = asyncio.Lock()

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard, self._failures], client_max_size=2 * MOST_FILE)
        routes = [
            web.get("/static/{name}", self._static),
            web.get("/login", self._login),
            web.post("/login", self._log_in),
            web.post("/logout", self._log_out),
            web.get(f"{API}/openapi.json", self._openapi),
        ]
        for view in VIEWS:
            routes += [web.get(view.path, self._shows(view)), web.get(view.api_path, self._answers(view))]
        posts: dict[Endpoint, _Handler] = {action: self._does(action) for action in ACTIONS}
        for route, handler in {**posts, export: self._export, COMPARE: self._compare}.items():
            routes += [web.post(route.path, handler), web.post(route.api_path, handler)]
        application.add_routes(routes)
        application.on_response_prepare.append(_protect)
        return application

    # -- who comes in, and what goes wrong -------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        _VISITOR.set(None)  # a connection asks again and again
        _SHOWS.set("")
        if not self._access.is_known_host(request):
            return self._failure(request, 421, "this console is asked by its name on this machine, such as localhost")
        if request.path.startswith("/static/") or request.path == "/login":
            return await handler(request)
        try:
            visitor = self._access.visitor(request)
        except TooManyTries as exc:
            return self._failure(request, 429, str(exc), headers={"Retry-After": f"{exc.wait_s:.0f}"})
        if visitor is None:
            if _is_api(request):
                headers = {"WWW-Authenticate": 'Bearer realm="sagaz-tiering"'}
                return self._failure(request, 401, "a token is needed: Authorization: Bearer TOKEN", headers=headers)
            target = {"next": str(request.rel_url)} if request.method == "GET" else {}
            return _see(str(URL("/login").with_query(target)))
        _VISITOR.set(visitor)
        return await handler(request)

    @web.middleware
    async def _failures(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as exc:
            return self._failure(request, exc.status, exc.reason)
        except NotThere as exc:
            return self._failure(request, 404, str(exc))
        except (BadQuestion, ConfigError, InvalidSnapshot) as exc:
            return self._failure(request, 400, str(exc), exc.hint)
        except TierUnavailable as exc:
            return self._failure(request, 503, str(exc), exc.hint)
        except SagazTieringError as exc:
            return self._failure(request, 409, str(exc), exc.hint)
        except Exception as exc:  # noqa: BLE001 - a defect: the page says so, the log has all of it
            if isinstance(exc, ConnectionError) and (request.transport is None or request.transport.is_closing()):
                _log.info("console.broken_off", path=request.path)
                return web.Response()  # nobody is there to get it
            _log.exception("console.failed", path=request.path, error=str(exc))
            problem = f"{type(exc).__name__}: this is a defect; the daemon's log has all of it"
            return self._failure(request, 500, problem)

    def _failure(
        self, request: web.Request, status: int, problem: str, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> web.Response:
        if _is_api(request):
            answer: web.Response = _json({"problem": problem, "hint": hint}, status)
        else:
            values = {"status": status, "problem": problem, "hint": hint, "what": _SHOWS.get()}
            answer = self._page(request, "failure.html", "Not shown", "", values, status)
        answer.headers.update(headers or {})
        return answer

    # -- looking -----------------------------------------------------------------------------------------------

    def _shows(self, view: ConsoleView) -> _Handler:
        async def show(request: web.Request) -> web.Response:
            _SHOWS.set(view.title)
            asked = view.asked(request.match_info, request.query)
            document = await view.document(self._documents, asked)
            values = {**document, "asked": asked, "query": request.query, "fragment": view.template}
            alone = view.is_fragment and "HX-Request" not in request.headers
            template = "fragment.html" if alone else view.template
            return self._page(request, template, view.title, view.command(asked, document), values)

        return show

    def _answers(self, view: ConsoleView) -> _Handler:
        async def answer(request: web.Request) -> web.Response:
            asked = view.asked(request.match_info, request.query)
            document = await view.document(self._documents, asked)
            document = {name: value for name, value in document.items() if not name.startswith("_")}
            # On a thread: a context of many megabytes must not keep the jobs' leases from being renewed.
            return web.Response(text=await asyncio.to_thread(_dumped, document), content_type="application/json")

        return answer

    async def _compare(self, request: web.Request) -> web.Response:
        sent = await self._sent(request)
        asked = COMPARE.asked({}, sent)
        async with self._comparing:  # one at a time: it goes through the catalog
            document = await compare(self._documents, asked)
        if _is_api(request):
            return _json(document)
        values = {"compared": document, "pasted": asked["policies"], "asked": {}, "query": {}}
        return self._page(request, "compared.html", "What if", "sagaz-tiering plan --policy FILE", values)

    async def _openapi(self, _: web.Request) -> web.Response:
        return _json(openapi())

    # -- changing ----------------------------------------------------------------------------------------------

    def _does(self, action: Action) -> _Handler:
        async def do(request: web.Request) -> web.StreamResponse:
            sent = await self._sent(request)
            if not _visitor().may_change:
                return self._failure(request, 403, "to change something the operator's token is needed")
            asked = action.asked(request.match_info, sent)
            done = await self._audited(action, asked, request)
            return _json(done) if _is_api(request) else _see(action.then.format(**{**asked, **done}))

        return do

    async def _export(self, request: web.Request) -> web.StreamResponse:
        await self._sent(request)
        asked = export.asked(request.match_info, {})
        if self._exporting.locked():
            problem = "another export is under way, and they are made one at a time; try again in a minute"
            return self._failure(request, 429, problem, headers={"Retry-After": f"{_EXPORT_AGAIN_S}"})
        async with self._exporting:  # until it is handed over: its file lies in the daemon's folder for such files
            with TemporaryDirectory(prefix="sagaz-tiering-export-") as folder:
                out = Path(folder, f"saga-{asked['saga_id']}.zip")
                await self._audited(export, {**asked, "out": out}, request)
                named = {"Content-Disposition": f'attachment; filename="{out.name}"'}
                with out.open("rb") as file:  # noqa: ASYNC230 - it is read by a thread
                    answer = web.Response(body=file, headers=named, content_type="application/zip")
                    await answer.prepare(request)
                    await answer.write_eof()
            return answer

    async def _audited(self, action: Action, asked: Mapping[str, Any], request: web.Request) -> dict[str, Any]:
        """Written down before it is done; what cannot be written down is not done."""
        visitor = _visitor()
        audit, subject = self._documents.catalog.audit, action.subject(asked)
        reason, now = str(asked.get("reason") or ""), self._documents.now()
        what = {"action": action.name, "subject": subject, "reason": reason}
        entry = await audit.begin(now, who=visitor.name, address=request.remote or "", **what)
        _log.info("console.asked", action=action.name, subject=subject, who=visitor.name)
        try:
            done = await action.do(self._documents, asked, visitor)
        except Exception as exc:
            await audit.end(entry, f"not done: {exc}")
            raise
        await audit.end(entry, "done")
        return done

    async def _sent(self, request: web.Request) -> Mapping[str, Any]:
        """The fields of a form or a JSON object, of a request that is surely meant."""
        if request.content_type == "application/json":
            try:
                sent = await request.json()
            except (ValueError, RecursionError):
                raise BadQuestion("the body is not JSON") from None
            if not isinstance(sent, dict):
                raise BadQuestion("the body must be a JSON object")
            fields = {name: _text_of(value) for name, value in sent.items() if value is not None}
            if empty := [name for name, value in fields.items() if not value]:  # in a form it is a field left alone
                raise BadQuestion(f"{', '.join(empty)}: an empty text is no value; leave it out, or give one")
        else:
            fields = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        if (reason := self._access.why_not_ours(request, _visitor(), fields.get("csrf", ""))) is not None:
            raise BadQuestion(reason)
        return fields

    # -- coming and going --------------------------------------------------------------------------------------

    async def _login(self, request: web.Request, status: int = 200, problem: str = "") -> web.Response:
        values = {"problem": problem, "next": request.query.get("next", "/")}
        return self._page(request, "login.html", "Log in", "", values, status)

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        sent = await request.post()
        token, name, target = (str(sent.get(field, "")) for field in ("token", "name", "next"))
        if (reason := self._access.why_elsewhere(request)) is not None:
            return await self._login(request, 400, reason)
        try:
            session = self._access.log_in(request, token, name.strip()[:200])
        except TooManyTries as exc:
            return await self._login(request, 429, str(exc))
        if session is None:
            return await self._login(request, 403, "that is not a token of this console")
        response = _see(target if _is_ours(target) else "/")
        secure = self._access.is_secure(request)
        response.set_cookie(COOKIE, session, path="/", httponly=True, samesite="Strict", secure=secure)
        return response

    async def _log_out(self, request: web.Request) -> web.StreamResponse:
        await self._sent(request)
        self._access.log_out(request)
        response = _see("/login")
        response.del_cookie(COOKIE, path="/")
        return response

    async def _static(self, request: web.Request) -> web.Response:
        found = STATIC.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found[1], content_type=found[0], charset="utf-8")

    def _page(
        self, request: web.Request, template: str, title: str, command: str, values: Asked, status: int = 200
    ) -> web.Response:
        runtime, visitor = self._documents.state.runtime(), _VISITOR.get()
        now = (SystemClock() if runtime is None else runtime.clock).now()
        common = {"title": title, "command": command, "visitor": visitor, "path": request.path, "now": now}
        text = self._pages.get_template(template).render({**values, **common})
        return web.Response(text=text, content_type="text/html", status=status)


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer carries."""
    response.headers.update(_HEADERS)
    if request.path.startswith("/static/") and response.status == 200:
        response.headers["Cache-Control"] = "private, max-age=3600"


def _visitor() -> Visitor:
    found = _VISITOR.get()
    assert found is not None  # whoever has none comes no further than the login
    return found


def _see(path: str) -> web.Response:
    """After a form: go on with that page, by GET."""
    return web.Response(status=303, headers={"Location": path})


def _text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise BadQuestion("values must be text, numbers, true or false")


def _is_api(request: web.Request) -> bool:
    return request.path.startswith("/api/")


def _is_ours(target: str) -> bool:
    """A path of this site, not another site's address in disguise."""
    return (
        target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable() and "\\" not in target
    )


def _json(document: Any, status: int = 200) -> web.Response:
    return web.json_response(document, status=status, dumps=_dumped)


def _dumped(document: Any) -> str:
    return json.dumps(document, default=str)
