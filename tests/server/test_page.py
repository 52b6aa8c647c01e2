"""The page's port: who may see what, and what they see."""

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import offbeat
import pytest
import requests
from device_client import silence
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from house import House
from offbeat import devices, page
from server_process import until
from starlette.routing import Mount

STATIC = Path(offbeat.__file__).parent / "static"
OPEN = {("GET", "/healthz"), ("GET", "/sign-in"), ("POST", "/api/sign-in")}


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """All (method, path) of an application, the mounted static files left out."""
    found = []
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, Mount):
            assert route.path == "/static"
            continue
        assert isinstance(route.original_route, APIRoute), f"a route of an unknown kind: {route}"
        found += [(method, str(route.path)) for method in sorted(route.methods or ())]
    return found


@pytest.fixture(scope="module")
def session(house: House) -> Iterator[requests.Session]:
    with house.server.sign_in() as session:
        yield session


@pytest.fixture(scope="module")
def note_id(house: House, spoken: bytes) -> str:
    note_id = house.pendant.new_id()
    assert house.pendant.patch(note_id, spoken).status == 200
    until(lambda: house.bodies_of(note_id), 30, "the delivery")
    return note_id


def page_app() -> FastAPI:
    return page.make_app(store=None, pipeline=None, twins=None)  # type: ignore[arg-type]  # only its table of routes is looked at


@pytest.mark.parametrize(("method", "path"), sorted(set(routes_of(page_app())) - OPEN))
def test_signed_out_requests_are_refused(house: House, note_id: str, method: str, path: str) -> None:
    url = house.server.url + path.replace("{note_id}", note_id)
    for cookies in ({}, {"offbeat_session": "A" * 43}, {"offbeat_session": ""}):
        answer = requests.request(
            method,
            url,
            cookies=cookies,
            headers={"Origin": house.server.url},
            allow_redirects=False,
            timeout=10,
        )
        if path == "/":
            assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")
        else:
            assert answer.status_code == 401
        assert "milk" not in answer.text


def test_only_these_are_open(house: House) -> None:
    assert set(routes_of(page_app())) >= OPEN
    assert requests.get(f"{house.server.url}/healthz", timeout=10).json()["status"] == "ok"
    assert requests.get(f"{house.server.url}/sign-in", timeout=10).status_code == 200
    for path in ("/docs", "/openapi.json", "/redoc", "/static/../page.py", "/static/%2e%2e/page.py"):
        assert requests.get(house.server.url + path, timeout=10).status_code in (401, 404)


def test_device_routes_need_the_token_and_are_on_their_port_only(house: House) -> None:
    routes = routes_of(devices.make_app(store=None, pipeline=None, twins=None))  # type: ignore[arg-type]
    assert len(routes) == 5
    for method, path in routes:
        path = path.replace("{note_id}", house.pendant.new_id())
        headers = {"Authorization": "Bearer " + "A" * 43, "Content-Length": "0"}
        assert house.pendant.request(method, path, headers).status == 401
        answer = requests.request(
            method,
            house.server.url + path,
            headers={"Authorization": f"Bearer {house.pendant.device.token}", "Origin": house.server.url},
            timeout=10,
        )
        assert answer.status_code == 404
    for path in ("/", "/healthz", "/api/notes", "/static/page.css", "/docs", "/openapi.json"):
        assert house.pendant.request("GET", path).status == 404


@pytest.mark.parametrize("path", ["/api/sign-in", "/api/sign-out"])
def test_other_sites_cannot_post(house: House, session: requests.Session, path: str) -> None:
    cookies = session.cookies.get_dict()
    for headers in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = requests.post(
            house.server.url + path, cookies=cookies, headers=headers, json={"token": "A" * 43}, timeout=10
        )
        assert answer.status_code == 403 and "does not come from a page" in answer.text
    assert session.get(f"{house.server.url}/api/notes", timeout=10).status_code == 200  # still signed in


def test_a_body_that_is_too_long_is_not_read(house: House) -> None:
    head = "POST /api/sign-in HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nContent-Type: application/json\r\n"
    for more in (
        f"Content-Length: {page.MAX_BODY_BYTES + 1}\r\n\r\n",
        "Content-Length: 99999999999999\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n" + f"{page.MAX_BODY_BYTES + 1:x}\r\n" + "x" * (page.MAX_BODY_BYTES + 1),
    ):
        with socket.create_connection(("127.0.0.1", house.server.port), timeout=10) as connection:
            connection.sendall((head + more).encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))  # it ends the connection
        assert answer.startswith(b"HTTP/1.1 413 ") and answer.endswith(b"}"), answer


def test_a_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "IDLE_TIMEOUT_S", 0.05)
    seen: list[str] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        seen.append((await receive())["type"])

    asyncio.run(asyncio.wait_for(page.Frame(app)({"type": "http"}, receive, receive), 5))
    assert seen == ["http.disconnect"]


def test_a_sign_in_link_works_once_and_sign_out_ends_it(house: House) -> None:
    token = house.server.command("sign-in").stdout.strip().partition("#")[2]
    headers = {"Origin": house.server.url}
    first = requests.post(f"{house.server.url}/api/sign-in", json={"token": token}, headers=headers, timeout=10)
    assert first.status_code == 204
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and re.search("samesite=strict", cookie, re.IGNORECASE)
    again = requests.post(f"{house.server.url}/api/sign-in", json={"token": token}, headers=headers, timeout=10)
    assert again.status_code == 403 and "offbeat sign-in" in again.json()["detail"]
    with requests.Session() as session:
        session.cookies.update(first.cookies)
        url = f"{house.server.url}/api/notes"
        assert session.get(url, timeout=10).status_code == 200
        assert session.post(f"{house.server.url}/api/sign-out", headers=headers, timeout=10).status_code == 204
        session.cookies.update(first.cookies)
        assert session.get(url, timeout=10).status_code == 401


def test_no_token_is_stored_or_logged(house: House, session: requests.Session) -> None:
    token = house.server.command("sign-in").stdout.strip().partition("#")[2]
    secrets = [token, house.pendant.device.token, str(session.cookies["offbeat_session"])]
    for path in house.server.data.glob("offbeat.sqlite*"):
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content]
    log = house.server.log()
    assert not [secret for secret in [*secrets, house.secret, "milk"] if secret in log]


def test_headers_of_the_page(house: House, session: requests.Session) -> None:
    answer = session.get(f"{house.server.url}/", timeout=10)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_asks_nothing_of_other_hosts() -> None:
    files = [path for path in STATIC.iterdir() if path.suffix in (".html", ".js", ".css", ".svg")]
    assert len(files) > 5
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(src|href|url|import|fetch)\W{1,3}(https?:)?//", text), path.name
        for name in re.findall(r"[\"'](/static/[^\"']+|\./[^\"']+\.js)[\"']", text):
            assert (STATIC / name.rpartition("/")[2]).exists(), f"{path.name} names {name}"


def test_overview_tells_what_changed_only(house: House, session: requests.Session, note_id: str) -> None:
    url = f"{house.server.url}/api/overview"
    first = session.get(url, timeout=10)
    assert first.status_code == 200
    row: Any = next(row for row in first.json()["notes"] if row["id"] == note_id)
    assert row["text"] == "remind me to buy milk tomorrow"
    tag = {"If-None-Match": first.headers["ETag"]}
    until(lambda: session.get(url, headers=tag, timeout=10).status_code == 304, 15, "nothing new")
    assert int(first.headers["Offbeat-Time-Ms"]) > 1_700_000_000_000
    house.pendant.patch(house.pendant.new_id(), silence(0.2))
    assert session.get(url, headers=tag, timeout=10).status_code == 200


def test_list_by_cursor_is_whole_and_newest_first(house: House, session: requests.Session) -> None:
    for _ in range(5):
        house.pendant.patch(house.pendant.new_id(), silence(0.2))
    url = f"{house.server.url}/api/notes"
    whole = session.get(url, params={"limit": 200}, timeout=10).json()
    assert whole["next"] is None
    numbers = [row["number"] for row in whole["notes"]]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) >= 5
    paged, cursor = [], None
    while True:
        part = session.get(url, params={"limit": 2, "before": cursor}, timeout=10).json()
        paged += [row["number"] for row in part["notes"]]
        cursor = part["next"]
        if cursor is None:
            break
    assert paged == numbers
    for bad in ({"limit": 0}, {"limit": 201}, {"before": -1}, {"before": "x"}, {"before": 2**63}):
        assert session.get(url, params=bad, timeout=10).status_code == 422


def test_sound_plays_and_downloads(house: House, session: requests.Session, note_id: str, spoken: bytes) -> None:
    base = f"{house.server.url}/api/notes/{note_id}"
    whole = session.get(f"{base}/sound.wav", timeout=10)
    assert whole.status_code == 200 and whole.headers["Content-Type"] == "audio/wav"
    assert whole.content[20:22] == b"\x01\x00"  # plain PCM
    part = session.get(f"{base}/sound.wav", headers={"Range": "bytes=1000-1999"}, timeout=10)
    assert part.status_code == 206 and part.content == whole.content[1000:2000]
    original = session.get(f"{base}/original", timeout=10)
    assert original.content == spoken and f"{note_id}.wav" in original.headers["Content-Disposition"]
    for path in ("", "/sound.wav", "/original"):
        assert session.get(f"{house.server.url}/api/notes/p1-0000000000000000{path}", timeout=10).status_code == 404
