"""`offbeat destination`: where the notes' text is sent."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from offbeat.commands import fail, opened, print_table

group = typer.Typer(no_args_is_help=True, help="Where the notes' text is sent.")


def _pairs(option: str, given: list[str], sign: str) -> dict[str, str]:
    pairs = {}
    for text in given:
        key, found, value = text.partition(sign)
        if not found:
            fail(f"{option}: should be NAME{sign}VALUE")  # without the value, which may be a secret
        pairs[key.strip()] = value.strip()
    return pairs


@group.command("add")
def destination_add(
    url: Annotated[str, typer.Argument(help="Where to post the notes; file:// and a folder for Markdown files.")],
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    secret: Annotated[
        str | None, typer.Option(help="Secret to sign with, whsec_…; made where it is not given.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="What kind of receiver it is: `offbeat destination recipes`.")] = "",
    fields: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE that the recipe asks for.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A further header, 'Name: value'.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="File with the body's shape: JSON with {{ text }} and the like.")
    ] = None,
    event: Annotated[list[str] | None, typer.Option(help="What it gets; note where it is not given.")] = None,
    empty_texts: Annotated[bool, typer.Option("--empty-texts", help="Notes without speech, too.")] = False,
    ask: Annotated[
        bool | None, typer.Option("--ask/--retry", help="In doubt whether it arrived: ask, or send it again.")
    ] = None,
    timeout_s: Annotated[int | None, typer.Option(help="How long to wait for the answer, s.")] = None,
    per_minute: Annotated[int | None, typer.Option(help="Deliveries a minute at most.")] = None,
) -> None:
    """Adds a destination and prints one JSON line: id, url, secret (shown this once)."""
    from pydantic import ValidationError

    from offbeat import destinations as places

    try:
        shape = None if template is None else json.loads(template.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fail(f"--template {template}: {error}")
    values: dict[str, Any] = {
        "url": url,
        "name": name,
        "secret": secret,
        "recipe": recipe or ("markdown" if url.startswith("file:") else "webhook"),
        "fields": _pairs("--set", fields or [], "="),
        "headers": _pairs("--header", header or [], ":"),
        "template": shape,
        "events": event or ["note"],
        "empty_texts": empty_texts,
        "ask": ask,
        "timeout_s": timeout_s,
        "per_minute": per_minute,
    }
    try:
        new = places.NewDestination(**values)
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
    with opened() as store:
        try:
            row = places.row_of(new, store.settings)
            with store.write() as connection:
                added = places.add(connection, row)
        except ValueError as error:
            fail(error)
    print(json.dumps(added))


@group.command("recipes")
def destination_recipes() -> None:
    """Lists the recipes and what each one asks for."""
    from offbeat.destinations import recipes

    rows = []
    for recipe in recipes().values():
        asked = [
            f"{key}=…  {field.label}{'' if field.default is None else ' (optional)'}"
            for key, field in recipe.fields.items()
        ]
        rows.append((recipe.name, recipe.title, recipe.url, "\n".join(asked)))
    print_table(["recipe", "for", "URL", "--set"], rows)


@group.command("list")
def destination_list() -> None:
    """Lists the destinations."""
    from offbeat.destinations import listed

    with opened() as store, store.read() as connection:
        rows = [
            (
                one["id"],
                one["name"] or "",
                one["to"],
                one["recipe"],
                " ".join(one["events"]),
                str(one["pending"]),
                str(one["in_doubt"]),
                one["ended"] or "",
            )
            for one in listed(connection)
        ]
    print_table(["id", "name", "to", "recipe", "events", "pending", "in doubt", "ended"], rows)


@group.command("test")
def destination_test(
    destination_id: Annotated[str, typer.Argument(help="The id that `offbeat destination list` shows.")],
) -> None:
    """Sends a sample there once, and prints one JSON line: delivered, status, answer, error, took_ms."""
    from offbeat import destinations as places

    with opened() as store:
        with store.read() as connection:
            row = places.existing(connection, destination_id)
        if row is None:
            fail(f"there is no destination {destination_id!r}: `offbeat destination list` shows them")
        try:
            outcome = places.try_out(row, store.settings)
        except ValueError as error:
            fail(error)
    line = {
        "delivered": outcome.delivered,
        "status": outcome.status,
        "answer": outcome.logged,
        "error": outcome.error,
        "took_ms": outcome.took_ms,
    }
    print(json.dumps(line))
    if not outcome.delivered:
        raise SystemExit(1)


@group.command("remove")
def destination_remove(
    destination_id: Annotated[str, typer.Argument(help="The id that `offbeat destination list` shows.")],
) -> None:
    """Removes a destination and its secrets. What was to be sent there ends."""
    from offbeat.deliveries import Deliveries

    with opened() as store, store.write() as connection:
        if not Deliveries.remove(connection, destination_id):
            fail(f"there is no destination {destination_id!r}: `offbeat destination list` shows them")


@group.command("resend")
def destination_resend(
    note_id: Annotated[str, typer.Argument(help="The note's id.")],
    to: Annotated[list[str] | None, typer.Option(help="Only to this destination; all where it is not given.")] = None,
) -> None:
    """Sends a note again, with its text as it is now; by a server that runs, or at its next start.

    Prints one JSON line: the webhook ids."""
    from offbeat import destinations as places
    from offbeat.deliveries import Deliveries, DeliveryError
    from offbeat.pipeline import APPLICATION_VERSION, client_of

    with opened() as store:
        deliveries = Deliveries(store, client_of(store), APPLICATION_VERSION)
        try:
            with store.write() as connection:
                chosen = to or [
                    one["id"] for one in places.listed(connection) if one["ended"] is None and "note" in one["events"]
                ]
                if not chosen:
                    fail("there is no destination that takes notes: `offbeat destination add` adds one")
                sent = [deliveries.send(connection, note_id, one) for one in chosen]
        except DeliveryError as error:
            fail(error)
    print(json.dumps({"webhook_ids": sent}))


def add_to(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(group, name="destination")
