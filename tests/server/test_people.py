"""Who may do what: scopes at every route, sessions, CSRF, the password, tokens, the rate limit."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from inside_app import BASE, InsideApp
from offbeat import cli, http_server, log, page, pipeline
from offbeat.api.access import need_of
from offbeat.people import ALL_FAILURES, FAILURES, FAILURES_S, SCOPES, Failures, TooOften
from server_process import ServerProcess

PASSWORD = "correct horse battery"


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[InsideApp]:
    inside = InsideApp(tmp_path / "data")
    yield inside
    inside.store.close()


def needs() -> list[tuple[str, str, str]]:
    """(method, path, what it needs) of every route."""
    app = page.make_app(store=None, pipeline=None, twins=None)  # type: ignore[arg-type]
    return sorted(
        (method, str(route.path), str(need_of(route.original_route)))
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for method in route.methods or ()
    )


def test_each_route_takes_its_scope_and_no_other(tmp_path: Path) -> None:
    inside = InsideApp(tmp_path / "data")
    routes = needs()
    assert len(routes) > 25
    assert {need for _, _, need in routes} == {*SCOPES, "anybody", "somebody"}
    assert [(method, path) for method, path, need in routes if need == "anybody"] == [
        ("GET", "/"), ("GET", "/healthz"), ("GET", "/sign-in"), ("POST", "/api/sign-in"),
    ]  # fmt: skip
    clients = {scope: inside.client(scope) for scope in SCOPES}
    nobody, wrong = inside.client(), inside.client()
    wrong.headers["Authorization"] = "Bearer " + "A" * 43
    elsewhere = inside.signed_in(origin="http://evil.example")
    for method, path, need in routes:
        url = path.replace("{note_id}", "none")
        where = f"{method} {path}"
        if need == "anybody":
            continue
        for stranger in (nobody, wrong):
            assert stranger.request(method, url).status_code == 401, where
        if method != "GET":
            assert elsewhere.request(method, url).status_code == 403, where
        for scope, client in clients.items():
            # A body that cannot be used: it is refused for that only where the scope is right.
            answer = client.request(method, url, content=b"")
            is_allowed = need in (scope, "somebody") or scope == "admin"
            assert (answer.status_code != 403) == is_allowed, f"{where} with {scope}: {answer.status_code}"
            assert answer.status_code not in (401, 500), f"{where} with {scope}: {answer.text}"
    inside.store.close()


def test_a_session_and_where_it_comes_from(inside: InsideApp) -> None:
    client = inside.signed_in(origin=None)
    assert client.get("/api/tokens").status_code == 200
    new = {"name": "x", "scopes": ["read"]}
    for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://[::1"},
                    {"Sec-Fetch-Site": "cross-site"}):  # fmt: skip
        assert client.post("/api/tokens", json=new, headers=headers).status_code == 403, headers
    for headers in ({"Origin": BASE}, {"Sec-Fetch-Site": "same-origin"}):
        assert client.post("/api/tokens", json=new, headers=headers).status_code == 201, headers
    # A cookie does not help a wrong token.
    assert client.get("/api/tokens", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert client.get("/api/tokens", headers={"Authorization": "Basic eDp5"}).status_code == 401


def test_the_cookie_is_secure_where_the_way_is(inside: InsideApp) -> None:
    from fastapi.testclient import TestClient

    for base, is_secure in ((BASE, False), ("https://notes.example", True)):
        client = TestClient(inside.app, base_url=base)
        answer = client.post("/api/sign-in", json={"token": inside.people.make_sign_in()}, headers={"Origin": base})
        cookie = answer.headers["Set-Cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and ("secure" in cookie) == is_secure


def test_password(inside: InsideApp) -> None:
    first, other = inside.signed_in(), inside.signed_in()
    assert first.get("/api/password").json() == {"is_set": False, "needs_current": False}
    stranger = inside.client()
    stranger.headers["Origin"] = BASE
    assert stranger.post("/api/sign-in", json={"password": PASSWORD}).status_code == 403
    assert first.put("/api/password", json={"password": "short"}).status_code == 422
    assert first.put("/api/password", json={"password": PASSWORD}).status_code == 204
    # All others are signed out; who set it is not.
    assert other.get("/api/password").status_code == 401
    assert first.get("/api/password").json() == {"is_set": True, "needs_current": False}
    assert stranger.post("/api/sign-in", json={"password": PASSWORD + "x"}).status_code == 403
    assert stranger.post("/api/sign-in", json={"password": PASSWORD}).status_code == 204
    # Who came in with the password must know it to change it.
    assert stranger.get("/api/password").json() == {"is_set": True, "needs_current": True}
    new = {"password": "another long one"}
    assert stranger.put("/api/password", json=new).status_code == 403
    assert stranger.put("/api/password", json={**new, "current": "wrong"}).status_code == 403
    assert stranger.put("/api/password", json={**new, "current": PASSWORD}).status_code == 204
    content = b"".join(path.read_bytes() for path in inside.store.settings.data.glob("offbeat.sqlite*"))
    assert PASSWORD.encode() not in content and b"$argon2id$" in content


def test_guessing_is_slowed_down(inside: InsideApp) -> None:
    assert inside.signed_in().put("/api/password", json={"password": PASSWORD}).status_code == 204
    client = inside.client()
    client.headers["Origin"] = BASE
    for number in range(FAILURES):
        wrong = {"password": f"guess {number}"} if number else {"token": "A" * 43}
        assert client.post("/api/sign-in", json=wrong).status_code == 403
    # Then not even the right one is looked at.
    answer = client.post("/api/sign-in", json={"password": PASSWORD})
    assert answer.status_code == 429 and 0 < int(answer.headers["Retry-After"]) <= FAILURES_S


def test_failures_are_counted_for_each_address_and_for_all() -> None:
    failures = Failures()
    for number in range(FAILURES):
        failures.check("a", float(number))
        failures.add("a", float(number))
    with pytest.raises(TooOften) as caught:
        failures.check("a", 10.0)
    assert caught.value.wait_s == FAILURES_S - 10 + 1
    failures.check("b", 10.0)
    failures.check("a", FAILURES_S + 1)
    for number in range(ALL_FAILURES):
        failures.add(f"many{number}", 20.0)
    with pytest.raises(TooOften):
        failures.check("c", 21.0)


def test_sessions_are_listed_and_ended(inside: InsideApp) -> None:
    here, there = inside.signed_in(), inside.signed_in()
    there.headers["User-Agent"] = "elsewhere"
    listed = here.get("/api/sessions").json()
    assert [one["is_this"] for one in listed].count(True) == 1 and len(listed) == 2
    (other,) = [one["id"] for one in listed if not one["is_this"]]
    assert here.delete(f"/api/sessions/{other}").status_code == 204
    assert there.get("/api/sessions").status_code == 401
    assert here.delete(f"/api/sessions/{other}").status_code == 404
    assert here.delete("/api/sessions/%").status_code == 404


def test_tokens_of_the_page(inside: InsideApp) -> None:
    person = inside.signed_in()
    made = person.post("/api/tokens", json={"name": "phone", "scopes": ["read", "notes"]}).json()
    assert made["scopes"] == ["notes", "read"] and len(made["token"]) == 43
    script = inside.client()
    script.headers["Authorization"] = f"Bearer {made['token']}"
    assert script.get("/api/notes").status_code == 200
    (listed,) = [one for one in person.get("/api/tokens").json() if one["name"] == "phone"]
    assert "token" not in listed and listed["used_at"] is not None
    assert script.get("/api/tokens").status_code == 403
    assert person.delete(f"/api/tokens/{made['id']}").status_code == 204
    assert script.get("/api/notes").status_code == 401
    for wrong in ({"name": "", "scopes": ["read"]}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["all"]}):
        assert person.post("/api/tokens", json=wrong).status_code == 422


def test_tokens_of_the_command_line(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    made = json.loads(server.command("token", "create", "phone", "--scope", "notes").stdout)
    assert set(made) == {"id", "name", "scopes", "token"} and made["scopes"] == ["notes"]
    assert made["id"] in server.command("token", "list").stdout
    content = b"".join(path.read_bytes() for path in server.data.glob("offbeat.sqlite*"))
    assert made["token"].encode() not in content
    done = server.command("token", "create", "x", "--scope", "all", check=False)
    assert done.returncode == 1 and "--scope all" in done.stderr and "metrics" in done.stderr
    server.command("token", "revoke", made["id"])
    done = server.command("token", "revoke", made["id"], check=False)
    assert done.returncode == 1 and "offbeat token list" in done.stderr


def test_a_start_prints_a_link_until_somebody_has_signed_in(
    inside: InsideApp, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the database is not new: the first start was killed, or its link was too old when it was found."""

    def starts() -> str:
        with pytest.raises(StopIteration):
            cli._serve(inside.store.settings)
        return capsys.readouterr().out

    def not_served(*_: object) -> None:
        raise StopIteration

    monkeypatch.setattr(log, "configure", lambda: None)
    monkeypatch.setattr(http_server, "listen", lambda *_: None)
    monkeypatch.setattr(http_server, "serve", not_served)
    monkeypatch.setattr(pipeline, "Pipeline", lambda *_, **__: SimpleNamespace(deliveries=SimpleNamespace(emit=None)))
    assert "/sign-in#" in starts() and "/sign-in#" in starts()
    people = inside.people
    session = people.sign_in_by_link(people.make_sign_in(), "", "a browser")
    assert "sign-in" not in starts()
    signed_in = people.session(session)
    assert signed_in is not None and people.set_password(PASSWORD, None, None, True, "")
    assert people.sessions() == [] and "sign-in" not in starts()
