"""schemathesis over the whole OpenAPI: no 5xx, no answer that is not in it, nothing let in that is not allowed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from device_client import silence
from fastapi import FastAPI
from offbeat import page
from server_process import ServerProcess

# The values are found in the answers of the server, or are such that it reaches nobody else.
CONFIGURATION = """
[[operations]]
include-name = "POST /api/notes"
checks.positive_data_acceptance.expected-statuses = [200, 201, 415, 422]

[[operations]]
include-name = "POST /api/destinations"
checks.positive_data_acceptance.expected-statuses = [201, 409, 422]

[parameters]
"path.destination_id" = "none"
"path.webhook_id" = "none"
"path.token_id" = "none"
"path.session_id" = "none"
"""
# Each of the operations on a note has one of its own, so that they find it whatever was deleted before.
ON_A_NOTE = """
[[operations]]
include-name = "{name}"
parameters = {{ "path.note_id" = "{note_id}" }}
"""


def described() -> dict[str, Any]:
    return page.make_app(store=None, pipeline=None, twins=None).openapi()  # type: ignore[arg-type]


@pytest.mark.parametrize("examples", [3, pytest.param(200, marks=pytest.mark.soak)])
def test_no_answer_that_is_not_described(tmp_path: Path, examples: int) -> None:
    with ServerProcess(tmp_path / "data") as server:
        server.add_device("p1", "pendant")
        token = json.loads(server.command("token", "create", "fuzz", "--scope", "admin").stdout)["token"]
        headers = {"Authorization": f"Bearer {token}"}
        schema = requests.get(f"{server.url}/api/openapi.json", headers=headers, timeout=10).json()
        configuration = CONFIGURATION
        names = [f"{method.upper()} {path}" for path, one in schema["paths"].items() for method in one]
        for number, name in enumerate(name for name in names if "{note_id}" in name):
            answer = requests.post(
                f"{server.url}/api/notes", params={"id": str(number)}, data=silence(0.1), headers=headers, timeout=10
            )
            assert answer.status_code == 201, answer.text
            configuration += ON_A_NOTE.format(name=name, note_id=answer.json()["id"])
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
                "--seed", "1", "--no-shrink", "--continue-on-failure", "--warnings", "off",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=150 if examples < 100 else 3000, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        assert f"Tested: {sum(len(one) for one in schema['paths'].values())}" in done.stdout, done.stdout
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
