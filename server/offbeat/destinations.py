"""Destinations: where texts and events are sent, in which shape, with what credentials. A recipe is a file in recipes/.

Secrets (the signing secret, headers, what a recipe asks for, the URL's path) lie readable in the database, because
they must be sent. They are shown to nobody after a destination was added, and are in no log."""

import base64
import binascii
import functools
import json
import secrets
import tomllib
from importlib import resources
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from offbeat import template
from offbeat.delivery import Outcome, check_url, folder_of, place, post, write_markdown
from offbeat.settings import Settings
from offbeat.store import deliveries, destinations, iso, now_ms

MAX_DESTINATIONS = 50
MAX_BODY_BYTES = 8 * 1024 * 1024
# A try out holds up whoever asked for it.
TEST_TIMEOUT_S = 30
# Carried by nobody else: `post` sets them.
OWN_HEADERS = frozenset(
    ("authorization", "connection", "content-length", "content-type", "host", "transfer-encoding", "webhook-id",
     "webhook-signature", "webhook-timestamp")
)  # fmt: skip

Event = Literal["note", "device.battery_low", "device.silent"]
EVENTS: tuple[Event, ...] = ("note", "device.battery_low", "device.silent")
# The `type` in the body.
TYPES = {"note": "note.transcribed"}
DATA_OF_A_NOTE = ("id", "device", "source", "title", "text", "language", "duration_s", "recorded_at", "received_at")
# What people and templates read where there is no text.
SENTENCES = {
    "device.battery_low": "The battery of {name} is low.",
    "device.silent": "Nothing was heard of {name} for a while.",
}

# What a template is tried with before it is kept: all that has ever broken a body.
HOSTILE = (
    "\"quotes\", 'quotes', back\\slash\\, \\u0022\nnew\r\nlines\ttab \x00\x1b\x7f "
    "{{ 7*7 }} {% if %} {# #} ${x} %s &amp; <b> </script> 🎙️ 👩‍👩‍👧 ‮ \ud800 \u2028"
)


class NewDestination(BaseModel):
    """What is said of a destination when it is added. What is left out is as the recipe has it."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=2000, description="Where to post to, or file:// and a folder for Markdown files.")
    name: str | None = Field(None, max_length=80)
    recipe: str = Field("webhook", max_length=32)
    secret: str | None = Field(None, max_length=128, description="whsec_…; made where it is not given.")
    fields: dict[str, str] = Field({}, max_length=16, description="What the recipe asks for.")
    headers: dict[str, str] = Field({}, max_length=16)
    template: JsonValue = Field(None, description="Shape of the body instead of the recipe's; docs/destinations.md.")
    events: list[Event] = Field(["note"], min_length=1, max_length=8)
    empty_texts: bool = Field(False, description="Notes without speech, too.")
    ask: bool | None = Field(None, description="When in doubt whether it arrived, ask instead of sending it again.")
    timeout_s: int | None = Field(None, ge=1, le=900)
    per_minute: int | None = Field(None, ge=1, le=600, description="Deliveries a minute at most.")


class RecipeField(BaseModel):
    """One thing to fill in."""

    model_config = ConfigDict(extra="forbid")

    label: str
    secret: bool = False
    default: str | None = Field(None, description="Null: it must be filled in.")


class Recipe(BaseModel):
    """A kind of receiver, from a file of recipes/."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    about: str
    url: str = Field(description="What its URL looks like.")
    authorization: Literal["basic", "bearer"] | None = Field(
        None, description="Made of the fields `user` and `password`, or of `token`."
    )
    fields: dict[str, RecipeField] = {}
    headers: dict[str, str] = {}
    body: JsonValue = None
    ask: bool = False
    timeout_s: int = 20
    answer_path: str | None = None


@functools.cache
def recipes() -> dict[str, Recipe]:
    """The recipes by name, in the order of their names."""
    found = {}
    for file in sorted(resources.files("offbeat.recipes").iterdir(), key=lambda file: file.name):
        name, _, ending = file.name.rpartition(".")
        if ending == "toml":
            found[name] = Recipe(name=name, **tomllib.loads(file.read_text("utf-8")))
    return found


def new_secret() -> str:
    """A secret of Standard Webhooks: 32 random bytes."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def check_secret(secret: str) -> None:
    """Raises ValueError where it is no secret of Standard Webhooks; the message does not contain it."""
    wanted = "a secret (--secret) should be whsec_ and 24 to 64 bytes in base64"
    try:
        if not secret.startswith("whsec_"):
            raise ValueError(wanted)
        length = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError(wanted) from None
    if not 24 <= length <= 64:
        raise ValueError(wanted)


def _check_header(name: str, value: str) -> None:
    """Raises ValueError; the message does not contain the value."""
    if not name or not all(sign.isalnum() or sign in "-_" for sign in name) or not name.isascii() or len(name) > 64:
        raise ValueError(f"{name!r} is not a header's name")
    if name.lower() in OWN_HEADERS - {"authorization"}:
        raise ValueError(f"the header {name} is set by Offbeat itself")
    if len(value) > 2000 or not value.isprintable() or not value.isascii() or value != value.strip():
        raise ValueError(f"the header {name} should be one line of at most 2000 ASCII characters")


def _authorization(recipe: Recipe, fields: dict[str, str]) -> str | None:
    if recipe.authorization == "basic" and fields.get("password"):
        content = f"{fields.get('user', '')}:{fields['password']}".encode()
        return f"Basic {base64.b64encode(content).decode()}"
    if recipe.authorization == "bearer" and fields.get("token"):
        return f"Bearer {fields['token']}"
    return None


def row_of(new: NewDestination, settings: Settings) -> dict[str, Any]:
    """The row of a new destination. Raises ValueError, which says what is wrong and contains no secret."""
    recipe = recipes().get(new.recipe)
    if recipe is None:
        raise ValueError(f"there is no recipe {new.recipe!r}: there are {', '.join(recipes())}")
    if any("\0" in text for text in (new.url, new.name or "", *new.fields.values())):
        raise ValueError("a zero byte is in no text")
    is_folder = new.url.startswith("file:")
    if is_folder != (recipe.url.startswith("file:")):
        raise ValueError("the recipe markdown and a URL that begins with file:// belong together")
    if is_folder:
        folder_of(new.url, settings.export_folder)
        if new.events != ["note"] or new.template is not None or new.headers:
            raise ValueError("a folder takes notes only, and no template and no headers")
    else:
        check_url(new.url)
    unknown = new.fields.keys() - recipe.fields.keys()
    if unknown:
        known = ", ".join(recipe.fields) or "nothing"
        raise ValueError(f"the recipe {recipe.name} does not ask for {', '.join(sorted(unknown))}, but for {known}")
    fields = {}
    for key, field in recipe.fields.items():
        value = new.fields.get(key, field.default)
        if value is None or (field.default is None and not value):
            raise ValueError(f"the recipe {recipe.name} needs {key}: {field.label} (--set {key}=…)")
        fields[key] = value
    secret = new.secret or new_secret()
    check_secret(secret)
    headers = {**recipe.headers, **new.headers}
    authorization = _authorization(recipe, fields)
    for name, value in headers.items():
        _check_header(name, value)
    for name in [name for name in headers if name.lower() == "authorization"]:
        authorization = headers.pop(name)
    if authorization is not None:
        _check_header("Authorization", authorization)
    row: dict[str, Any] = {
        "url": new.url,
        "name": new.name or None,
        "secret": secret,
        "recipe": recipe.name,
        "template": recipe.body if new.template is None else new.template,
        # The credentials are in the header already.
        "fields": {key: value for key, value in fields.items() if not recipe.fields[key].secret},
        "headers": headers,
        "authorization": authorization,
        "events": list(dict.fromkeys(new.events)),
        "empty_texts": new.empty_texts,
        "ask": recipe.ask if new.ask is None else new.ask,
        "timeout_s": new.timeout_s or recipe.timeout_s,
        "per_minute": new.per_minute,
        "answer_path": recipe.answer_path,
    }
    if row["template"] is not None:
        template.check(row["template"])
        for kind in row["events"]:
            for event in (sample(kind, HOSTILE), sample(kind, ""), sample(kind, HOSTILE, bare=True)):
                json.loads(body_of(row, event))
    return row


def add(connection: sa.Connection, row: dict[str, Any]) -> dict[str, str]:
    """Adds a destination of `row_of`. Returns its id, URL and secret, which are shown this once. Raises ValueError."""
    number = connection.scalar(
        sa.select(sa.func.count()).select_from(destinations).where(destinations.c.removed_ms.is_(None))
    )
    if (number or 0) >= MAX_DESTINATIONS:
        raise ValueError(f"there are {MAX_DESTINATIONS} destinations already, which is the most: remove one first")
    destination_id = f"d{secrets.token_hex(8)}"
    connection.execute(sa.insert(destinations).values(id=destination_id, created_ms=now_ms(), **row))
    return {"id": destination_id, "url": row["url"], "secret": row["secret"]}


def listed(connection: sa.Connection) -> list[dict[str, Any]]:
    """The destinations, oldest first, without anything secret."""
    rows = connection.execute(
        sa.select(destinations).where(destinations.c.removed_ms.is_(None)).order_by(destinations.c.created_ms)
    ).all()
    counts = connection.execute(
        sa.select(deliveries.c.destination_id, deliveries.c.state, sa.func.count())
        .where(deliveries.c.state.in_(("pending", "in_doubt")))
        .group_by(deliveries.c.destination_id, deliveries.c.state)
    ).all()
    numbers = {(destination_id, state): number for destination_id, state, number in counts}
    return [
        {
            "id": row.id,
            "name": row.name,
            "to": place(row.url),
            "recipe": row.recipe,
            "events": row.events or ["note"],
            "empty_texts": row.empty_texts,
            "ask": row.ask,
            "timeout_s": row.timeout_s,
            "per_minute": row.per_minute,
            "headers": sorted(row.headers or {}),
            "created_at": iso(row.created_ms),
            "ended": row.ended_reason,
            "pending": numbers.get((row.id, "pending"), 0),
            "in_doubt": numbers.get((row.id, "in_doubt"), 0),
        }
        for row in rows
    ]


def note_event(note: sa.Row[Any]) -> dict[str, Any]:
    """What a destination gets for a note, as docs/destinations.md has it."""
    return {
        "type": TYPES["note"],
        "timestamp": iso(note.edited_ms or note.transcribed_ms),
        "data": {
            "id": note.id,
            "device": note.device_id,
            "source": note.source,
            "title": note.title,
            "text": note.text,
            "language": note.language,
            "duration_s": None if note.duration_ms is None else note.duration_ms / 1000,
            "recorded_at": iso(note.recorded_ms),
            "received_at": iso(note.received_ms),
        },
    }


def device_event(kind: str, payload: dict[str, Any], time_ms: int) -> dict[str, Any]:
    """What a destination gets for an event of a device; `payload` holds `device`, its id, and `name`, and may hold
    more."""
    text = SENTENCES[kind].format(name=payload["name"])
    return {"type": kind, "timestamp": iso(time_ms), "data": {**payload, "text": text}}


def sample(kind: str, text: str, bare: bool = False) -> dict[str, Any]:
    """An event to try a destination out with; `bare`: with null wherever that can be."""
    now = iso(now_ms())
    if kind != "note":
        return device_event(kind, {"device": "p7", "name": text or "Test"}, now_ms())
    data = dict.fromkeys(DATA_OF_A_NOTE) | {"id": "test-0123456789abcdef", "text": text, "received_at": now}
    if not bare:
        data |= {"device": "p7", "title": text, "language": "en", "duration_s": 1.5, "recorded_at": now}
    return {"type": TYPES["note"], "timestamp": now, "data": data}


def body_of(destination: Any, event: dict[str, Any]) -> str:
    """The body that a destination (a row, or its values) gets for an event: always JSON. Raises TemplateError."""
    values = destination if isinstance(destination, dict) else destination._mapping
    if values["template"] is None:
        return json.dumps(event)
    context = {
        **dict.fromkeys((*DATA_OF_A_NOTE, "name")),
        **event["data"],
        "type": event["type"],
        "timestamp": event["timestamp"],
        "data": event["data"],
        "fields": values["fields"] or {},
    }
    body = template.render(values["template"], context)
    if len(body) > MAX_BODY_BYTES:
        raise template.TemplateError(f"the body would have more than {MAX_BODY_BYTES} bytes")
    return body


def send(destination: Any, settings: Settings, webhook_id: str, body: str, timeout_s: float | None = None) -> Outcome:
    """One try to send a body to a destination's row."""
    if destination.url.startswith("file:"):
        return write_markdown(destination.url, settings.export_folder, body)
    return post(
        destination.url,
        destination.secret,
        webhook_id,
        body,
        destination.headers,
        destination.authorization,
        timeout_s or destination.timeout_s,
    )


def try_out(destination: Any, settings: Settings) -> Outcome:
    """Sends a sample, signed like any other, once. A folder keeps it as a file. Raises TemplateError."""
    kind = (destination.events or ["note"])[0]
    body = body_of(destination, sample(kind, "This is a test from Offbeat."))
    timeout_s = min(destination.timeout_s, TEST_TIMEOUT_S)
    return send(destination, settings, f"msg_test_{secrets.token_hex(12)}", body, timeout_s)


def existing(connection: sa.Connection, destination_id: str) -> sa.Row[Any] | None:
    """The row of a destination that was not removed."""
    return connection.execute(
        sa.select(destinations).where(destinations.c.id == destination_id, destinations.c.removed_ms.is_(None))
    ).one_or_none()
