"""schemathesis over the whole OpenAPI: no 5xx, no answer that is not in it, nothing let in that is not allowed."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from device_client import silence
from fastapi import FastAPI
from offbeat import page
from server_process import ServerProcess, WebhookReceiver, until

# The values are found in the answers of the server, or are such that it reaches nobody else.
CONFIGURATION = """
[phases.coverage]
unexpected-methods = ["PUT", "TRACE"]
[[operations]]
include-name = "POST /api/notes"
checks.positive_data_acceptance.expected-statuses = [200, 201, 415, 422]

[[operations]]
include-name = "POST /api/destinations"
checks.positive_data_acceptance.expected-statuses = [201, 409, 422]
"""
# What needs a link's secret; sound, and the test itself adds notes; a session that no new password has ended.
UNREACHED = {"POST /api/sign-in", "POST /api/notes", "DELETE /api/sessions/{session_id}"}
# Each operation on one thing has a thing of its own, so that it finds it whatever was deleted before.
ON_ONE = """
[[operations]]
include-name = "{name}"
parameters = {{ "path.{key}" = "{found}" }}
"""


class Things:
    """Makes what there can be one of, over the API; a delivery, which nobody can make, in the table."""

    def __init__(self, server: ServerProcess, headers: dict[str, str], receiver: WebhookReceiver) -> None:
        self.server, self.headers, self.receiver = server, headers, receiver
        self.count = 0

    def post(self, path: str, **more: Any) -> Any:
        self.count += 1
        answer = requests.post(f"{self.server.url}/api{path}", headers=self.headers, timeout=10, **more)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def note_id(self) -> str:
        return str(self.post("/notes", params={"id": str(self.count)}, data=silence(0.1))["id"])

    def destination_id(self) -> str:
        return str(self.post("/destinations", json={"url": f"{self.receiver.url}/{self.count}"})["id"])

    def token_id(self) -> str:
        return str(self.post("/tokens", json={"name": "one", "scopes": ["read"]})["id"])

    def device_id(self) -> str:
        return str(self.post("/devices", json={"name": "one", "app": "pendant"})["id"])

    def session_id(self) -> str:
        with self.server.sign_in() as session:
            found = session.get(f"{self.server.url}/api/sessions", timeout=10).json()
            return next(str(one["id"]) for one in found if one["is_this"])

    def webhook_id(self) -> str:
        note_id, destination_id = self.note_id(), self.destination_id()
        row = {"id": f"msg_{self.count}", "note_id": note_id, "destination_id": destination_id, "body": "{}",
               "state": "in_doubt", "created_ms": 1}  # fmt: skip
        self.write(f"INSERT INTO deliveries ({', '.join(row)}) VALUES (:{', :'.join(row)})", row)
        return str(row["id"])

    def set_aside(self) -> str:
        """A note that somebody may want to be tried again."""
        note_id = self.note_id()
        url = f"{self.server.url}/api/notes/{note_id}"
        until(lambda: requests.get(url, headers=self.headers, timeout=10).json()["text"] is not None, 30, "its text")
        self.write("UPDATE notes SET state = 'received', set_aside = 1, text = NULL WHERE id = :id", {"id": note_id})
        return note_id

    def write(self, statement: str, values: dict[str, Any]) -> None:
        with closing(sqlite3.connect(self.server.data / "offbeat.sqlite", timeout=20)) as connection:
            connection.execute(statement, values)
            connection.commit()


def succeeded(report: Path, schema: dict[str, Any]) -> set[str]:
    """The operations with a good answer in schemathesis' report (HAR)."""
    paths = {path: re.compile(re.sub(r"\\{[^/]*\\}", "[^/]+", re.escape(path))) for path in schema["paths"]}
    found = set()
    for entry in json.loads(report.read_text())["log"]["entries"]:
        if entry["response"]["status"] < 300:
            asked, method = urlsplit(entry["request"]["url"]).path, entry["request"]["method"]
            exact = [asked] if asked in paths else [path for path, known in paths.items() if known.fullmatch(asked)]
            found |= {f"{method} {path}" for path in exact}
    return found


def described() -> dict[str, Any]:
    return page.make_app(store=None, pipeline=None, twins=None).openapi()  # type: ignore[arg-type]


@pytest.mark.parametrize("examples", [3, pytest.param(200, marks=pytest.mark.soak)])
def test_no_answer_that_is_not_described(tmp_path: Path, examples: int) -> None:
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as receiver:
        token = json.loads(server.command("token", "create", "fuzz", "--scope", "admin").stdout)["token"]
        headers = {"Authorization": f"Bearer {token}"}
        schema = requests.get(f"{server.url}/api/openapi.json", headers=headers, timeout=10).json()
        configuration = CONFIGURATION
        things = Things(server, headers, receiver)
        names = [f"{method.upper()} {path}" for path, one in schema["paths"].items() for method in one]
        for name in names:
            if (key := re.search(r"{(\w+)}", name)) is not None:
                found = things.set_aside() if name.endswith("/retry") else getattr(things, key[1])()
                configuration += ON_ONE.format(name=name, key=key[1], found=found)
        # What is sent by hand goes to a destination that there is.
        place = schema["components"]["schemas"]["Chosen"]["properties"]["destination"]
        place["examples"] = [things.destination_id()]
        # Every request carries the token: a wrong cookie beside it changes nothing, which would look like a hole.
        for operations in schema["paths"].values():
            for operation in operations.values():
                if "security" in operation:
                    operation["security"] = [one for one in operation["security"] if "session" not in one]
        (tmp_path / "openapi.json").write_text(json.dumps(schema))
        (tmp_path / "schemathesis.toml").write_text(configuration)
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("st")), "run", "openapi.json", "--url", server.url,
                "--header", f"Authorization: Bearer {token}", "--header", f"Origin: {server.url}",
                "--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples),
                "--seed", "1", "--report-har-path", "answers.har",
                "--no-shrink", "--continue-on-failure", "--warnings", "off",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=150 if examples < 100 else 3000, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        assert f"Tested: {sum(len(one) for one in schema['paths'].values())}" in done.stdout, done.stdout
        never = set(names) - succeeded(tmp_path / "answers.har", schema) - UNREACHED
        assert not never, f"no request of these was ever a good one: {never}"
        # It has not signed itself out on the way.
        assert requests.get(f"{server.url}/api/tokens", headers=headers, timeout=10).status_code == 200
        assert '"level": "error"' not in server.log()


def test_every_operation_says_what_it_may_answer() -> None:
    schema = described()
    assert isinstance(page.make_app(store=None, pipeline=None, twins=None), FastAPI)  # type: ignore[arg-type]
    assert len(schema["paths"]) > 15
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("description"), where
            assert {"503", "507"} <= operation["responses"].keys(), where
            if "security" in operation:
                assert {"401", "403"} <= operation["responses"].keys(), where
            for status, answer in operation["responses"].items():
                if status >= "400" and "application/json" in answer.get("content", {}):
                    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
