"""The people and scripts that may use the server: sign-in links, the password, sessions, tokens."""

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from offbeat.store import Store, now_ms, password, sessions, sign_ins, tokens
from offbeat.tokens import new_token, token_hash

Scope = Literal["notes", "read", "write", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SESSION_MS = 90 * 86_400_000
SIGN_IN_MS = 86_400_000
SEEN_EVERY_MS = 60_000
MIN_PASSWORD, MAX_PASSWORD = 10, 1000
# Failed sign-ins of one address, and of all together, within the time after which they are forgotten.
FAILURES, ALL_FAILURES, FAILURES_S = 5, 100, 300.0
MAX_ADDRESSES = 10_000


class TooOften(Exception):
    """Too many failed sign-ins; `wait_s`: when it may be tried again."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many failed sign-ins: try again in {wait_s} s")
        self.wait_s = wait_s


@dataclass(frozen=True)
class Session:
    """A browser that is signed in; `id` names it, and opens nothing."""

    id: str
    by_link: bool


@dataclass(frozen=True)
class Token:
    """A token of a script, without its secret."""

    id: str
    name: str
    scopes: list[str]


class Failures:
    """Counts failed sign-ins, of each address and of all, and says when there were too many. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: OrderedDict[str, list[float]] = OrderedDict()
        self._all: list[float] = []

    def check(self, address: str, now_s: float) -> None:
        """Raises TooOften."""
        with self._lock:
            for times, most in ((self._of.get(address, []), FAILURES), (self._all, ALL_FAILURES)):
                recent = [at for at in times if at > now_s - FAILURES_S]
                if len(recent) >= most:
                    raise TooOften(int(recent[-most] + FAILURES_S - now_s) + 1)

    def add(self, address: str, now_s: float) -> None:
        with self._lock:
            self._all = [*self._all, now_s][-ALL_FAILURES:]
            self._of[address] = [*self._of.pop(address, []), now_s][-FAILURES:]
            while len(self._of) > MAX_ADDRESSES:
                self._of.popitem(last=False)

    def forget(self, address: str) -> None:
        with self._lock:
            self._of.pop(address, None)


class People:
    """Who may use the server. Only hashes of what opens it are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._failures = Failures()
        self._hashing = threading.Lock()  # one at a time: each takes 64 MB for a moment

    def make_sign_in(self) -> str:
        """A token for one sign-in within a day."""
        token = new_token()
        now = now_ms()
        with self._store.write() as connection:
            connection.execute(sa.delete(sign_ins).where(sign_ins.c.expires_ms < now))
            connection.execute(sa.insert(sign_ins).values(token_hash=token_hash(token), expires_ms=now + SIGN_IN_MS))
        return token

    def nobody_yet(self) -> bool:
        """Whether nobody has a way in: no browser is signed in, or was of late, and there is no password."""
        if self.has_password():
            return False
        with self._store.read() as connection:
            return connection.scalar(sa.select(sessions.c.token_hash).limit(1)) is None

    def sign_in_by_link(self, token: str, address: str, name: str) -> str | None:
        """A session's token for that of a link, which ends with that. None where it is not valid. Raises TooOften."""
        self._failures.check(address, time.monotonic())
        with self._store.write() as connection:
            used = connection.execute(
                sa.delete(sign_ins).where(sign_ins.c.token_hash == token_hash(token), sign_ins.c.expires_ms > now_ms())
            )
            if used.rowcount == 1:
                return self._begin_session(connection, name, by_link=True)
        self._failures.add(address, time.monotonic())
        return None

    def sign_in_by_password(self, given: str, address: str, name: str) -> str | None:
        """A session's token, or None where the password is wrong or none is set. Raises TooOften."""
        with self._hashing:  # checked within, so that a hundred guesses at once are counted one by one
            self._failures.check(address, time.monotonic())
            if not self._is_password(given):
                self._failures.add(address, time.monotonic())
                return None
        self._failures.forget(address)
        with self._store.write() as connection:
            return self._begin_session(connection, name, by_link=False)

    def _begin_session(self, connection: sa.Connection, name: str, by_link: bool) -> str:
        session, now = new_token(), now_ms()
        connection.execute(sa.delete(sessions).where(sessions.c.expires_ms < now))
        connection.execute(
            sa.insert(sessions).values(
                token_hash=token_hash(session),
                created_ms=now,
                expires_ms=now + SESSION_MS,
                name=name[:200],
                by_link=by_link,
                seen_ms=now,
            )
        )
        return session

    def session(self, token: str | None) -> Session | None:
        """The session of a cookie, or None where it is not one, or has ended."""
        if not token:
            return None
        digest, now = token_hash(token), now_ms()
        with self._store.read() as connection:
            row = connection.execute(sa.select(sessions).where(sessions.c.token_hash == digest)).one_or_none()
        if row is None or row.expires_ms <= now:
            return None
        if row.seen_ms is None or now - row.seen_ms > SEEN_EVERY_MS:
            with self._store.write() as connection:
                connection.execute(sa.update(sessions).where(sessions.c.token_hash == digest).values(seen_ms=now))
        return Session(digest[:16], row.by_link)

    def sessions(self) -> list[sa.Row[Any]]:
        """The sessions, the newest first."""
        with self._store.read() as connection:
            chosen = sa.select(sessions).where(sessions.c.expires_ms > now_ms())
            return list(connection.execute(chosen.order_by(sessions.c.created_ms.desc())))

    def end_session(self, session_id: str) -> bool:
        """Whether there was one."""
        with self._store.write() as connection:
            chosen = sa.delete(sessions).where(sa.func.substr(sessions.c.token_hash, 1, 16) == session_id)
            return connection.execute(chosen).rowcount > 0

    def has_password(self) -> bool:
        with self._store.read() as connection:
            return connection.scalar(sa.select(password.c.number)) is not None

    def set_password(self, new: str, current: str | None, kept: str | None, by_link: bool, address: str) -> bool:
        """Sets it and ends all sessions but the one `kept`. False where `current` is not the one that is set.

        Who signed in by a link may leave `current` out: that is the way for who has forgotten it. Raises TooOften."""
        from pwdlib import PasswordHash  # late: most processes never need it

        with self._hashing:
            if not by_link and self.has_password():
                self._failures.check(address, time.monotonic())
                if not self._is_password(current or ""):
                    self._failures.add(address, time.monotonic())
                    return False
            hashed = PasswordHash.recommended().hash(new)
        with self._store.write() as connection:
            connection.execute(sa.delete(password))
            connection.execute(sa.insert(password).values(number=1, hash=hashed, changed_ms=now_ms()))
            connection.execute(sa.delete(sessions).where(sa.func.substr(sessions.c.token_hash, 1, 16) != (kept or "")))
        return True

    def _is_password(self, given: str) -> bool:
        from pwdlib import PasswordHash

        with self._store.read() as connection:
            hashed = connection.scalar(sa.select(password.c.hash))
        return hashed is not None and len(given) <= MAX_PASSWORD and PasswordHash.recommended().verify(given, hashed)

    def create_token(self, name: str, scopes: list[Scope]) -> tuple[Token, str]:
        """Makes a token. The second value is its secret, which is not kept."""
        made = Token(secrets.token_hex(8), name, [scope for scope in SCOPES if scope in scopes])
        secret = new_token()
        with self._store.write() as connection:
            connection.execute(
                sa.insert(tokens).values(
                    id=made.id,
                    name=made.name,
                    scopes=made.scopes,
                    token_hash=token_hash(secret),
                    created_ms=now_ms(),
                )
            )
        return made, secret

    def token(self, secret: str) -> Token | None:
        """The token with this secret, or None."""
        digest, now = token_hash(secret), now_ms()
        with self._store.read() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.token_hash == digest)).one_or_none()
        if row is None:
            return None
        if row.used_ms is None or now - row.used_ms > SEEN_EVERY_MS:
            with self._store.write() as connection:
                connection.execute(sa.update(tokens).where(tokens.c.id == row.id).values(used_ms=now))
        return Token(row.id, row.name, row.scopes)

    def tokens(self) -> list[sa.Row[Any]]:
        """The tokens, the newest first."""
        with self._store.read() as connection:
            return list(connection.execute(sa.select(tokens).order_by(tokens.c.created_ms.desc())))

    def revoke_token(self, token_id: str) -> bool:
        """Whether there was one."""
        with self._store.write() as connection:
            return connection.execute(sa.delete(tokens).where(tokens.c.id == token_id)).rowcount > 0
