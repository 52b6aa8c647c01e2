"""What both ports answer where the disk or the database refuses: 507 where it is full, else 503."""

import errno
from collections.abc import Callable

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.responses import Response

from offbeat import log

# SQLite's words, and those of the system, which PostgreSQL repeats.
FULL = ("database or disk is full", "No space left on device")
# PostgreSQL's disk_full (its documentation, appendix A).
DISK_FULL = "53100"


def is_full(error: Exception) -> bool:
    """Whether it says that there is no space left."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) == DISK_FULL or any(words in str(cause) for words in FULL)


def handle(app: FastAPI, answer: Callable[[int, str, dict[str, str]], Response]) -> None:
    """Makes an application answer so; `answer` makes the answer of a status, a detail and headers."""

    async def refuses(_request: Request, error: Exception) -> Response:
        full = is_full(error)
        log.get().error("the storage refuses", error=str(error))
        detail = "no space left on the server" if full else "the server's storage refuses; its log says why"
        return answer(507 if full else 503, detail, {"Connection": "close"})

    async def broken(_request: Request, _error: Exception) -> Response:
        return answer(500, "the server is broken; its log says why", {})

    # TimeoutError: all connections to the database are in use.
    for kind in (sa.exc.OperationalError, sa.exc.TimeoutError, OSError):
        app.add_exception_handler(kind, refuses)
    app.add_exception_handler(Exception, broken)
