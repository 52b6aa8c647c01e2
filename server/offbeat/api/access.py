"""Who may ask for what: scopes, sessions and tokens, and what every route's answers have in common."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request, Security
from fastapi.params import Depends as DependsParameter
from fastapi.params import Security as SecurityParameter
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import BaseModel, Field, WithJsonSchema

from offbeat.people import People, Scope
from offbeat.store import Store

if TYPE_CHECKING:
    from offbeat.pipeline import Pipeline
    from offbeat.twin import Twins

COOKIE = "offbeat_session"
# `anybody`: no session and no token. `somebody`: any of them, whatever its scopes.
Need = Scope | Literal["anybody", "somebody"]


@dataclass(frozen=True)
class Parts:
    """What the routes work on; they get it as `here: Here`."""

    store: Store
    pipeline: "Pipeline"
    people: People
    twins: "Twins"


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


Here = Annotated[Parts, Depends(_parts)]


# A time as `iso` of the store writes it.
Instant = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Problem(BaseModel):
    """Every answer that is not the good one."""

    detail: str = Field(description="What is wrong, in words.")


@dataclass(frozen=True)
class Caller:
    """Who asks. `session` and `token`: the id of the one that was shown, or None."""

    name: str
    session: str | None = None
    token: str | None = None
    by_link: bool = False


_cookie = APIKeyCookie(name=COOKIE, scheme_name="session", auto_error=False, description="A person, signed in.")
_bearer = HTTPBearer(scheme_name="token", auto_error=False, description="A token of `offbeat token create`.")
NOT_SIGNED_IN = "not signed in: `offbeat sign-in` prints a link"


def same_origin(request: Request) -> bool:
    """Whether a request comes from a page of this server, as the browser says."""
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    try:
        return urlsplit(origin).netloc == request.headers.get("Host")
    except ValueError:
        return False


def _check_origin(request: Request) -> None:
    if request.method not in ("GET", "HEAD", "OPTIONS") and not same_origin(request):
        raise HTTPException(403, "this request does not come from a page of this server")


def _identify(
    request: Request,
    here: Here,
    scopes: SecurityScopes,
    cookie: Annotated[str | None, Security(_cookie)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """A token, where one is shown, counts alone: a browser cannot be made to send it from elsewhere."""
    if bearer is not None or "Authorization" in request.headers:
        token = here.people.token(bearer.credentials) if bearer is not None else None
        if token is None:
            raise HTTPException(401, "the token is not valid", {"WWW-Authenticate": "Bearer"})
        if not ("admin" in token.scopes or set(scopes.scopes) <= set(token.scopes)):
            raise HTTPException(403, f"this token lacks the scope {scopes.scope_str}")
        return Caller(token.name, token=token.id)
    session = here.people.session(cookie)
    if session is None:
        raise HTTPException(401, NOT_SIGNED_IN, {"WWW-Authenticate": "Bearer"})
    _check_origin(request)
    return Caller("page", session=session.id, by_link=session.by_link)


# Texts without the one character that PostgreSQL does not store.
NO_NUL = "^[^\\x00]*$"
# For a route that wants to know who asks, beside its `needs`.
Who = Annotated[Caller, Security(_identify)]


def needs(need: Need) -> Any:
    """What a route demands: one of `dependencies=[…]`."""
    if need == "anybody":
        return Depends(_check_origin)
    return Security(_identify, scopes=[] if need == "somebody" else [need])


def need_of(route: APIRoute) -> Need:
    """What a route demands. Raises TypeError where it does not say so."""
    for dependency in route.dependencies:
        if isinstance(dependency, SecurityParameter) and dependency.dependency is _identify:
            need: Need = dependency.scopes[0] if dependency.scopes else "somebody"  # type: ignore[assignment]
            return need
        if isinstance(dependency, DependsParameter) and dependency.dependency is _check_origin:
            return "anybody"
    raise TypeError(f"{sorted(route.methods or ())} {route.path} does not say what it needs: dependencies=[needs(…)]")


def problems(texts: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: status and what it means here."""
    return {status: {"model": Problem, "description": text} for status, text in texts.items()}
