"""Where the notes' text goes: destinations, what became of each delivery, and what people decide about one."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel, ConfigDict, Field

from offbeat import destinations as places
from offbeat.api.access import Here, needs, problems
from offbeat.deliveries import DeliveryError
from offbeat.store import Store

router = APIRouter(prefix="/api", tags=["destinations"])

Id = Annotated[str, Path(pattern="^[A-Za-z0-9._-]{1,64}$")]
NO_DESTINATION = {404: "There is no such destination."}


class Destination(BaseModel):
    """A place for the notes' text. Nothing secret is in it."""

    id: str
    name: str | None
    to: str = Field(description="Scheme, host and port; of a folder its path.")
    recipe: str
    events: list[str]
    empty_texts: bool = Field(description="Notes without speech are sent, too.")
    ask: bool = Field(description="In doubt whether a note arrived, somebody is asked.")
    timeout_s: int
    per_minute: int | None
    headers: list[str] = Field(description="The names of its further headers.")
    created_at: datetime
    ended: str | None = Field(description="Why nothing is sent there any more.")
    pending: int = Field(description="Deliveries that are on their way.")
    in_doubt: int = Field(description="Deliveries that wait for somebody to decide.")


class Added(BaseModel):
    """A new destination; its secret is shown this once."""

    id: str
    url: str
    secret: str = Field(description="What the receiver verifies the signatures with.")


class Recipe(BaseModel):
    """A kind of receiver, and what must be filled in for it."""

    name: str
    title: str
    about: str
    url: str = Field(description="What its URL looks like.")
    fields: dict[str, places.RecipeField]
    ask: bool
    timeout_s: int


class Answer(BaseModel):
    """What came of a try."""

    delivered: bool
    took_ms: int
    status: int | None
    answer: str | None = Field(description="The first kB of it.")
    error: str | None


class Chosen(BaseModel):
    """A destination."""

    model_config = ConfigDict(extra="forbid")

    destination: str = Field(max_length=64, pattern="^[A-Za-z0-9._-]+$")


class Sent(BaseModel):
    """A delivery that was begun."""

    webhook_id: str


def destinations_of(store: Store) -> list[Destination]:
    """The destinations in the order in which they were added."""
    with store.read() as connection:
        return [Destination(**one) for one in places.listed(connection)]


@router.get("/destinations", dependencies=[needs("read")])
def list_destinations(here: Here) -> list[Destination]:
    """The destinations in the order in which they were added."""
    return destinations_of(here.store)


@router.get("/recipes", dependencies=[needs("read")])
def list_recipes() -> list[Recipe]:
    """The kinds of destinations that Offbeat knows."""
    return [Recipe(**recipe.model_dump(include=set(Recipe.model_fields))) for recipe in places.recipes().values()]


@router.post("/destinations", status_code=201, dependencies=[needs("admin")])
def add_destination(new: places.NewDestination, here: Here) -> Added:
    """Adds a destination."""
    try:
        row = places.row_of(new, here.store.settings)
        with here.store.write() as connection:
            return Added(**places.add(connection, row))
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


@router.delete(
    "/destinations/{destination_id}",
    status_code=204,
    dependencies=[needs("admin")],
    responses=problems(NO_DESTINATION),
)
def remove_destination(destination_id: Id, here: Here) -> None:
    """Removes a destination and its secrets. What was to be sent there ends."""
    with here.store.write() as connection:
        if not here.pipeline.deliveries.remove(connection, destination_id):
            raise HTTPException(404, "there is no such destination")


@router.post(
    "/destinations/{destination_id}/test",
    dependencies=[needs("admin")],
    responses=problems({**NO_DESTINATION, 409: "Its template cannot be filled in."}),
)
def test_destination(destination_id: Id, here: Here) -> Answer:
    """Sends a sample there, signed like any other, once, and waits at most half a minute for the answer."""
    with here.store.read() as connection:
        row = places.existing(connection, destination_id)
    if row is None:
        raise HTTPException(404, "there is no such destination")
    try:
        outcome = places.try_out(row, here.store.settings)
    except ValueError as error:
        raise HTTPException(409, str(error)) from None
    return Answer(
        delivered=outcome.delivered,
        took_ms=outcome.took_ms,
        status=outcome.status,
        answer=outcome.logged,
        error=outcome.error,
    )


@router.post(
    "/notes/{note_id}/send",
    status_code=202,
    dependencies=[needs("write")],
    responses=problems(
        {404: "There is no such note or destination.", 409: "It has no text, or the destination ended."}
    ),
)
def send_note(note_id: Id, chosen: Chosen, here: Here) -> Sent:
    """Sends a note to a destination, once more or for the first time, with its text as it is now.

    The same text keeps its webhook id; a text that was corrected since goes out under another one."""
    try:
        with here.store.write() as connection:
            return Sent(webhook_id=here.pipeline.deliveries.send(connection, note_id, chosen.destination))
    except DeliveryError as error:
        raise HTTPException(error.status, str(error)) from None


@router.post(
    "/deliveries/{webhook_id}/resend",
    status_code=202,
    dependencies=[needs("write")],
    responses=problems({404: "There is no such delivery.", 409: "There is nothing to send, or nowhere to."}),
)
def resend_delivery(webhook_id: Id, here: Here) -> Sent:
    """Sends the same body again under the same webhook id. It settles a doubt, too."""
    try:
        with here.store.write() as connection:
            here.pipeline.deliveries.resend(connection, webhook_id)
    except DeliveryError as error:
        raise HTTPException(error.status, str(error)) from None
    return Sent(webhook_id=webhook_id)


@router.post(
    "/deliveries/{webhook_id}/arrived",
    status_code=204,
    dependencies=[needs("write")],
    responses=problems({404: "There is no such delivery.", 409: "It is not in doubt."}),
)
def settle_delivery(webhook_id: Id, here: Here) -> None:
    """Settles a doubt: it did arrive."""
    try:
        with here.store.write() as connection:
            here.pipeline.deliveries.arrived(connection, webhook_id)
    except DeliveryError as error:
        raise HTTPException(error.status, str(error)) from None
