"""Signing in and out, the password, the sessions, the tokens."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from offbeat.api.access import COOKIE, Here, Instant, Who, needs, problems
from offbeat.people import MAX_PASSWORD, MIN_PASSWORD, SESSION_MS, Scope, TooOften
from offbeat.store import iso

router = APIRouter(prefix="/api", tags=["people"])

TOO_OFTEN = {429: "Too many failed sign-ins; `Retry-After` says when it may be tried again."}


class SignIn(BaseModel):
    """The token of a sign-in link, or the password."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1, "maxProperties": 1})

    token: str = Field("", min_length=43, max_length=43)
    password: str = Field("", min_length=1, max_length=MAX_PASSWORD)

    @model_validator(mode="after")
    def _one(self) -> "SignIn":
        if bool(self.token) == bool(self.password):
            raise ValueError("either token or password")
        return self


class NewPassword(BaseModel):
    """The password to sign in with from now on."""

    model_config = ConfigDict(extra="forbid")

    password: str = Field(min_length=MIN_PASSWORD, max_length=MAX_PASSWORD)
    current: str | None = Field(
        None, max_length=MAX_PASSWORD, description="The one of now; a session that began with a link needs it not."
    )


class PasswordState(BaseModel):
    """Whether there is a password, and whether this caller must give it to set another one."""

    is_set: bool
    needs_current: bool


class SessionView(BaseModel):
    """A browser that is signed in."""

    id: str
    name: str | None = Field(description="The browser, as it calls itself.")
    created_at: Instant
    seen_at: Instant | None
    expires_at: Instant
    is_this: bool = Field(description="Whether it is the one that asks.")


class NewToken(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern="^[^\\x00-\\x1f]+$")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=5)]


class TokenView(BaseModel):
    """A token of a script."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: Instant
    used_at: Instant | None


class MadeToken(TokenView):
    """A token with its secret, which is shown this once."""

    token: str


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _too_often(error: TooOften) -> HTTPException:
    return HTTPException(429, str(error), {"Retry-After": str(error.wait_s)})


@router.post(
    "/sign-in",
    status_code=204,
    dependencies=[needs("anybody")],
    responses=problems({403: "Link or password are not valid, or it comes from another site."} | TOO_OFTEN),
)
def sign_in(body: SignIn, request: Request, here: Here) -> Response:
    """Turns the token of a sign-in link, or the password, into a session."""
    address, name = _address(request), request.headers.get("User-Agent", "")
    try:
        if body.token:
            token = here.people.sign_in_by_link(body.token, address, name)
        else:
            token = here.people.sign_in_by_password(body.password, address, name)
    except TooOften as error:
        raise _too_often(error) from None
    if token is None and body.token:
        raise HTTPException(403, "this link was used already or is too old: `offbeat sign-in` prints a new one")
    if token is None:
        raise HTTPException(403, "the password is wrong, or none is set: `offbeat sign-in` prints a link")
    response = Response(status_code=204)
    # `secure` only where it came over TLS, by way of a proxy: the page itself is plain HTTP.
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, max_age=SESSION_MS // 1000, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/sign-out", status_code=204, dependencies=[needs("somebody")])
def sign_out(here: Here, caller: Who) -> Response:
    """Ends the session."""
    if caller.session is not None:
        here.people.end_session(caller.session)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


@router.get("/password", dependencies=[needs("admin")])
def password_state(here: Here, caller: Who) -> PasswordState:
    """Whether a password is set."""
    is_set = here.people.has_password()
    return PasswordState(is_set=is_set, needs_current=is_set and not caller.by_link)


@router.put(
    "/password",
    status_code=204,
    dependencies=[needs("admin")],
    responses=problems({403: "`current` is wrong, or this may not be asked."} | TOO_OFTEN),
)
def set_password(body: NewPassword, request: Request, here: Here, caller: Who) -> None:
    """Sets the password and ends all other sessions."""
    try:
        done = here.people.set_password(body.password, body.current, caller.session, caller.by_link, _address(request))
    except TooOften as error:
        raise _too_often(error) from None
    if not done:
        raise HTTPException(403, "the current password is wrong; a link of `offbeat sign-in` goes without it")


@router.get("/sessions", dependencies=[needs("admin")])
def list_sessions(here: Here, caller: Who) -> list[SessionView]:
    """The browsers that are signed in."""
    return [
        SessionView(
            id=row.token_hash[:16],
            name=row.name,
            created_at=iso(row.created_ms),
            seen_at=iso(row.seen_ms),
            expires_at=iso(row.expires_ms),
            is_this=row.token_hash[:16] == caller.session,
        )
        for row in here.people.sessions()
    ]


@router.delete(
    "/sessions/{session_id}",
    status_code=204,
    dependencies=[needs("admin")],
    responses=problems({404: "There is no such session."}),
)
def end_session(session_id: str, here: Here) -> None:
    """Signs a browser out."""
    if not here.people.end_session(session_id):
        raise HTTPException(404, "there is no such session")


@router.get("/tokens", dependencies=[needs("admin")])
def list_tokens(here: Here) -> list[TokenView]:
    """The tokens, without their secrets."""
    return [
        TokenView(id=row.id, name=row.name, scopes=row.scopes, created_at=iso(row.created_ms), used_at=iso(row.used_ms))
        for row in here.people.tokens()
    ]


@router.post("/tokens", status_code=201, dependencies=[needs("admin")])
def create_token(body: NewToken, here: Here) -> MadeToken:
    """Makes a token; its secret is in this answer only."""
    made, secret = here.people.create_token(body.name, list(body.scopes))
    (row,) = [row for row in here.people.tokens() if row.id == made.id]
    return MadeToken(
        id=row.id,
        name=row.name,
        scopes=row.scopes,
        created_at=iso(row.created_ms),
        used_at=None,
        token=secret,
    )


@router.delete(
    "/tokens/{token_id}",
    status_code=204,
    dependencies=[needs("admin")],
    responses=problems({404: "There is no such token."}),
)
def revoke_token(token_id: str, here: Here) -> None:
    """Ends a token, at once."""
    if not here.people.revoke_token(token_id):
        raise HTTPException(404, "there is no such token")
