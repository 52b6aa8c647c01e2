"""The server itself: what the page shows first, health, figures, the description of this API."""

import hashlib
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from offbeat import __version__
from offbeat.api.access import Here, needs
from offbeat.api.destinations import Destination, destinations_of
from offbeat.api.devices import Device, devices_of
from offbeat.api.notes import PAGE_NOTES, Page
from offbeat.notebook import Notebook
from offbeat.store import now_ms

router = APIRouter(tags=["system"])


class Health(BaseModel):
    """The server works."""

    status: str
    version: str


class Overview(Page):
    """All that the page shows at first."""

    devices: list[Device]
    destinations: list[Destination]


@router.get("/healthz", dependencies=[needs("anybody")])
def healthz(here: Here) -> Health:
    """Whether the server works: it answers, and the database does."""
    with here.store.read() as connection:
        connection.execute(sa.select(sa.literal(1)))
    return Health(status="ok", version=__version__)


@router.get(
    "/metrics",
    dependencies=[needs("metrics")],
    response_class=PlainTextResponse,
)
def metrics(here: Here) -> PlainTextResponse:
    """Figures for Prometheus."""
    from offbeat.metrics import CONTENT_TYPE, exposition

    return PlainTextResponse(exposition(here.store), media_type=CONTENT_TYPE)


@router.get("/api/openapi.json", dependencies=[needs("somebody")])
def description(request: Request) -> dict[str, Any]:
    """This description."""
    described: dict[str, Any] = request.app.openapi()
    return described


@router.get(
    "/api/overview",
    dependencies=[needs("read")],
    response_model=Overview,
    responses={304: {"description": "It is as `If-None-Match` has it."}},
)
def overview(request: Request, here: Here) -> Response:
    """The newest notes, the devices, the destinations, with an ETag, so that asking often is cheap."""
    content = Overview(
        **Notebook(here.store).page(None, PAGE_NOTES),
        devices=devices_of(here.store),
        destinations=destinations_of(here.store),
    ).model_dump_json()
    tag = f'W/"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Offbeat-Time-Ms": str(now_ms())}
    if request.headers.get("If-None-Match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/json")
