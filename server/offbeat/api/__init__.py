"""The API on the page's port, one file an area. `assemble` makes one application of all files in this folder.

To add a route, put it into the file of its area, or add a file with a `router`; nothing else is to be registered:

    from fastapi import APIRouter, HTTPException
    from offbeat.api.access import Here, needs, problems

    router = APIRouter(prefix="/api/things", tags=["things"])

    @router.delete(
        "/{thing_id}", status_code=204, dependencies=[needs("write")], responses=problems({404: "No such thing."})
    )
    def delete_thing(thing_id: str, here: Here) -> None:
        "What it does: this line is its description in the OpenAPI."
        with here.store.write() as connection: ...
        raise HTTPException(404, "there is no such thing")

- `needs` says which scope a request must have; `assemble` refuses a route without it, and tests/server/test_page.py
  asks every route without a session, with a wrong token and with a token of the wrong scope. A person who is signed in
  has all scopes, and so has a token with `admin`. What is not a GET and comes with a session must come from a page of
  this server.
- Every answer that it may give is in the OpenAPI: the good one by its annotation (a pydantic model), the others by
  `problems`; 400, 401, 403, 413, 503 and 507 are added where they can happen, 422 by FastAPI.
  tests/server/test_openapi.py tries to find another one. All of them have the body `{"detail": "…"}`, in words.
- Text that is stored has a `max_length` and the pattern NO_NUL; unknown keys of a body are forbidden.
- A route is a plain `def`, which runs in a thread, unless it never blocks.
- docs/server.md names it in its table, or a test fails.
- Bodies are limited to MAX_BODY_BYTES of offbeat/page.py unless the route says `max_body_size`.
- Heavy modules are imported in the function that needs them: an idle server is small.
"""

import importlib
import pkgutil

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from offbeat.api.access import need_of


def assemble(app: FastAPI) -> None:
    """Adds the routes of every file of this folder. Raises TypeError where one does not say what it needs."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        router = getattr(importlib.import_module(f"{__name__}.{module.name}"), "router", None)
        if router is not None:
            app.include_router(router)
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            need_of(route.original_route)
