"""The application on the page's port: the page itself, and the API of the folder `api`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offbeat import __version__, api, storage_errors
from offbeat.api.access import COOKIE, Here, Parts, Problem, needs, problems
from offbeat.notebook import Refused
from offbeat.people import People
from offbeat.store import Store

if TYPE_CHECKING:
    from offbeat.pipeline import Pipeline
    from offbeat.twin import Twins

STATIC = Path(__file__).parent / "static"
MAX_BODY_BYTES = 2 * 1024 * 1024
IDLE_TIMEOUT_S = 30.0
TOO_LARGE = b'{"detail":"the body is larger than is taken here"}'

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Added to every operation: what the server itself may have to say.
ALWAYS = problems({503: "The storage refuses, or the server is not ready: try again.", 507: "No space is left."})
# Added to every operation that wants to know who asks, and to those with a body.
CLOSED = problems({401: "Neither a session nor a valid token.", 403: "The scope is missing, or another site asks."})
WITH_BODY = problems({413: f"More than {MAX_BODY_BYTES} bytes.", 400: "The body cannot be read."})


class Frame:
    """Adds to each answer the headers that it does not have, and ends a request whose body stalls."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_whole = False

        async def within_time() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    message = await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
            is_whole = not message.get("more_body", False)
            return message

        is_bare = False

        async def with_headers(message: Message) -> None:
            nonlocal is_bare
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if message["status"] in (400, 413):
                    headers["Connection"] = "close"  # what follows of the body is not read
                if message["status"] == 413 and headers.get("Content-Type") != "application/json":
                    is_bare = True  # the framework's own, of a body that it did not even begin to read
                    headers["Content-Type"] = "application/json"
                    headers["Content-Length"] = str(len(TOO_LARGE))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            elif is_bare:
                message = {"type": "http.response.body", "body": TOO_LARGE}
            await send(message)

        await self._app(scope, within_time, with_headers)


class _App(FastAPI):
    """Everything that the framework answers goes through the frame, what its own middleware answers too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Frame(super().__call__)(scope, receive, send)


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(Problem(detail=detail).model_dump(), status, headers)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return _problem(error.status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return _problem(422, f"{where}: {first['msg']}")

    @app.exception_handler(405)
    async def wrong_method(request: Request, _error: Exception) -> Response:
        # All that the path takes; by itself it would be those of the first route with this path.
        allowed = {
            method
            for route in iter_route_contexts(app.routes)
            if isinstance(route.original_route, APIRoute) and route.path_regex.match(request.url.path)
            for method in route.methods or ()
        }
        return _problem(405, "this path does not take this method", {"Allow": ", ".join(sorted(allowed))})

    storage_errors.handle(app, _problem)


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI, with what all routes have in common."""
    described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = described["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operations in described["paths"].values():
        for operation in operations.values():
            answers = operation["responses"]
            if "422" in answers:
                answers["422"] = {"description": answers["422"]["description"], "content": body}
            common = dict(ALWAYS)
            if "security" in operation:
                common |= CLOSED
            if "requestBody" in operation:
                common |= WITH_BODY
            for status, answer in common.items():
                answers.setdefault(str(status), {"description": answer["description"], "content": body})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return described


def make_app(store: Store, pipeline: "Pipeline", twins: "Twins") -> FastAPI:
    """The application of the page's port."""
    app = _App(
        title="Offbeat",
        version=__version__,
        description="Notes, spoken and written down. Each operation names the scope that a token needs for it.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        max_body_size=MAX_BODY_BYTES,
    )
    app.state.parts = Parts(store, pipeline, People(store), twins)
    _handle_errors(app)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/sign-in", dependencies=[needs("anybody")], include_in_schema=False)
    def sign_in_page() -> FileResponse:
        return FileResponse(STATIC / "sign-in.html")

    @app.get("/", dependencies=[needs("anybody")], include_in_schema=False)
    def page(request: Request, here: Here) -> Response:
        if here.people.session(request.cookies.get(COOKIE)) is None:
            return RedirectResponse("/sign-in", 303)
        return FileResponse(STATIC / "index.html")

    api.assemble(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
