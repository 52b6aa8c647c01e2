"""`offbeat token`: what scripts and other machines show instead of signing in."""

import json
from typing import Annotated

import typer

from offbeat.commands import fail, opened, print_table
from offbeat.people import SCOPES, People
from offbeat.store import iso

group = typer.Typer(no_args_is_help=True, help="Tokens for scripts: what they may do is named by their scopes.")


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for people, such as 'phone'.")],
    scope: Annotated[list[str], typer.Option(help=f"What it may do: {', '.join(SCOPES)}. May be given several times.")],
) -> None:
    """Makes a token and prints one JSON line: id, name, scopes, token (shown this once)."""
    unknown = [one for one in scope if one not in SCOPES]
    if unknown:
        fail(f"--scope {unknown[0]}: should be one of {', '.join(SCOPES)}")
    if not 1 <= len(name) <= 100 or not name.isprintable():
        fail("the name should have 1 to 100 printable characters")
    with opened() as store:
        made, secret = People(store).create_token(name, [one for one in SCOPES if one in scope])
    print(json.dumps({"id": made.id, "name": made.name, "scopes": made.scopes, "token": secret}))


@group.command("list")
def list_tokens() -> None:
    """Lists the tokens, without their secrets."""
    with opened() as store:
        rows = [(row.id, row.name, " ".join(row.scopes), iso(row.used_ms) or "never") for row in People(store).tokens()]
    print_table(["id", "name", "scopes", "last use"], rows)


@group.command()
def revoke(token_id: Annotated[str, typer.Argument(help="The id that `offbeat token list` shows.")]) -> None:
    """Ends a token, at once."""
    with opened() as store:
        if not People(store).revoke_token(token_id):
            fail(f"there is no token {token_id!r}: `offbeat token list` shows them")


def add_to(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(group, name="token")
