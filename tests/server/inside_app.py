"""The application of the page's port in this process, with a pipeline that does nothing."""

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from offbeat import page
from offbeat.people import SCOPES
from offbeat.settings import Settings
from offbeat.store import Store
from offbeat.twin import Twins

BASE = "http://127.0.0.1:8080"


class NoPipeline:
    """Remembers which notes were handed to it."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin_note(self, note_id: str) -> None:
        self.begun.append(note_id)

    def enqueue_note(self, _connection: Any, note_id: str, attempt: int = 0, delay_s: float = 0) -> None:
        self.begun.append(f"{note_id}.{attempt}")


class InsideApp:
    """`client(scope)` is somebody with a token of that scope, `client()` somebody without any."""

    def __init__(self, folder: Path, database_url: str = "") -> None:
        self.store = Store(Settings(data=folder, database_url=database_url))
        self.pipeline = NoPipeline()
        self.app = page.make_app(self.store, self.pipeline, Twins(self.store, emit=lambda *_: 0))  # type: ignore[arg-type]
        self.people = self.app.state.parts.people
        self.secrets = {scope: self.people.create_token(scope, [scope])[1] for scope in SCOPES}

    def client(self, scope: str | None = None) -> TestClient:
        headers = {} if scope is None else {"Authorization": f"Bearer {self.secrets[scope]}"}
        return TestClient(self.app, base_url=BASE, headers=headers, raise_server_exceptions=False)

    def signed_in(self, origin: str | None = BASE) -> TestClient:
        """A browser with a session."""
        client = self.client()
        answer = client.post("/api/sign-in", json={"token": self.people.make_sign_in()}, headers={"Origin": BASE})
        assert answer.status_code == 204, answer.text
        if origin is not None:
            client.headers["Origin"] = origin
        return client
