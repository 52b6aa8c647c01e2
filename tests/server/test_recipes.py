"""Whatever was said goes through every recipe as valid JSON, signed, and comes out as it was."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offbeat import destinations, template
from offbeat.destinations import NewDestination, body_of, device_event, recipes, sample
from offbeat.settings import Settings
from server_process import WebhookReceiver
from standardwebhooks import Webhook

DOCUMENT = Path(__file__).parents[2] / "docs" / "destinations.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLNQb"
FILLED = {"user": "me", "password": "pass: wörd", "token": "t0ken", "topic": "my-notes", "sender": ""}
TEXTS = {
    "quotes": 'say "hello", \'you\' \\ \\" \\u0022 and } ] ,',
    "newlines": "one\ntwo\r\nthree\ttab\x00\x07\u2028\u2029",
    "emoji": "🎙️ 👩‍👩‍👧 ‮ ünïcödé",
    "template": "{{ 7*7 }} {% raw %} {# x #} {{ fields.password }} ${HOME} %s &amp; <!channel> <b>",
    "long": 'Ä "long"\n' * 10_240,
}
# Where each recipe carries the text, and at most how much of it (characters).
PLACE: dict[str, tuple[tuple[str, ...], int]] = {
    "webhook": (("data", "text"), 10**6),
    "n8n": (("data", "text"), 10**6),
    "home-assistant-webhook": (("data", "text"), 10**6),
    "home-assistant": (("text",), 10**6),
    "stavrobot": (("message",), 10**6),
    "ntfy": (("message",), 3900),
    "slack": (("text",), 20_000),
    "discord": (("content",), 1900),
}


def row_of(recipe: str, url: str, tmp_path: Path, **more: Any) -> SimpleNamespace:
    fields = {key: FILLED[key] for key in recipes()[recipe].fields}
    new = NewDestination(url=url, recipe=recipe, fields=fields, secret=SECRET, **more)
    return SimpleNamespace(**destinations.row_of(new, Settings(data=tmp_path)))


def test_every_recipe_is_tried_and_explained() -> None:
    assert PLACE.keys() | {"markdown"} == recipes().keys()
    text = DOCUMENT.read_text()
    for name, recipe in recipes().items():
        assert f"`{name}`" in text, name
        for key in recipe.fields:
            assert f"`{key}`" in text, (name, key)
    for name in template.FILTERS:
        assert f"`{name}`" in text, name
    for event in destinations.EVENTS:
        assert f"`{event}`" in text, event


@pytest.mark.parametrize("recipe", PLACE)
def test_hostile_transcripts_arrive_as_json(recipe: str, tmp_path: Path) -> None:
    path, most = PLACE[recipe]
    with WebhookReceiver() as receiver:
        row = row_of(recipe, receiver.url, tmp_path)
        for name, text in TEXTS.items():
            body = body_of(vars(row), sample("note", text))
            outcome = destinations.send(row, Settings(data=tmp_path), f"msg_{name}", body)
            assert outcome.delivered, outcome
            got = receiver.received[-1]
            value = Webhook(SECRET).verify(got.body, got.headers)
            assert value == got.json
            for key in path:
                value = value[key]
            if recipe == "slack":
                assert "<" not in value and not value.replace("&lt;", "").count("<")
                value = value.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            assert value == text or (len(value) <= most and text.startswith(value.removesuffix("…")[: most - 20]))
            assert (value == text) == (len(text) <= most), "only what is too long is cut"
        wanted = {"stavrobot": "Basic bWU6cGFzczogd8O2cmQ=", "ntfy": "Bearer t0ken", "home-assistant": "Bearer t0ken"}
        assert receiver.received[0].headers.get("authorization") == (wanted | {"n8n": "Bearer t0ken"}).get(recipe)
        assert "pass: w" not in json.dumps(got.json)


def test_what_stavrobot_gets(tmp_path: Path) -> None:
    row = row_of("stavrobot", "http://localhost:10567/chat", tmp_path)
    body = json.loads(body_of(vars(row), sample("note", "buy milk")))
    assert body == {"source": "offbeat", "sender": "p7", "message": "buy milk", "files": []}
    assert (row.ask, row.timeout_s, row.answer_path) == (True, 600, "response")


@pytest.mark.parametrize("recipe", PLACE)
@pytest.mark.parametrize("kind", destinations.EVENTS[1:])
def test_events_go_through_every_recipe(recipe: str, kind: str, tmp_path: Path) -> None:
    row = row_of(recipe, "http://localhost/", tmp_path, events=[kind])
    event = device_event(kind, {"device": "p7", "name": '"Anna\'s" {name}'}, 0)
    body = json.loads(body_of(vars(row), event))
    value: Any = body
    for key in PLACE[recipe][0]:
        value = value[key]
    assert "Anna's" in value and "{name}" in value


LEAVES = st.sampled_from(
    ["text", "data.text", "text | upper", "text ~ 'x'", "text[:9]", "duration_s", "language", "'\"'"]
)
SOURCES = st.lists(
    st.one_of(LEAVES.map(lambda one: "{{ " + one + " }}"), st.text('ab"\\{ }\n', max_size=5)), max_size=4
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), SOURCES.map("".join), max_size=3), st.text(max_size=50))
def test_no_text_changes_the_shape(shape: dict[str, str], text: str) -> None:
    """The keys are the template's, the values are strings or the value of one expression."""
    try:
        template.check(shape)
        body = body_of({"template": shape, "fields": {}}, sample("note", text))
    except template.TemplateError:
        return  # a lone brace or the like: refused when it is saved
    made = json.loads(body)
    assert made.keys() == shape.keys()
    assert all(value is None or isinstance(value, str | float) for value in made.values())


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"a": "{{ nobody }}"}, "nobody"),
        ({"a": "{{ text.nothing }}"}, "nothing"),
        ({"a": "{{ text.__class__.__mro__ }}"}, "__class__"),
        ({"a": "{{ ''.join(text) }}"}, "Call"),
        ({"a": "{{ range(9) }}"}, "Call"),
        ({"a": "{% for c in text %}{{ c }}{% endfor %}"}, "For"),
        ({"a": "{% set a = text %}"}, "Assign"),
        ({"a": "{{ text * 1000 }}"}, "Mul"),
        ({"a": "{{ 9 ** 9 ** 9 }}"}, "Pow"),
        ({"a": "{{ '%999999999d' % 1 }}"}, "Mod"),
        ({"a": "{{ text | replace('', text) }}"}, "replace"),
        ({"a": "{% include 'x' %}"}, "Include"),
        ({"a": "{{ text "}, "end of print statement"),
        ({"{{ text }}": 1}, "not for keys"),
        ({"a": "{{ text }}" * 65}, "64 values"),
        ({"a": "x" * 17_000}, "16384 bytes"),
        ({"a": "{{ " + "(" * 3000 + "text" + ")" * 3000 + " }}"}, "nested"),
        ({"a": float("inf")}, "not JSON"),
        ({"a": "{{ data.text | int + 'x' }}"}, "unsupported operand"),
    ],
    ids=str,
)
def test_a_template_that_cannot_be_used_is_refused_when_it_is_saved(shape: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s).*") as raised:
        row_of("webhook", "http://localhost/", tmp_path, template=shape)
    assert words in str(raised.value), raised.value


@pytest.mark.parametrize(
    ("expression", "value"), [("value / 1e-310", 1.5), ("value | int(0, 16)", "f" * 9000)], ids=["infinite", "long"]
)
def test_a_number_that_json_has_not(expression: str, value: Any) -> None:
    """It depends on what was said, so it cannot be refused earlier."""
    with pytest.raises(template.TemplateError, match="not JSON"):
        template.render([f"{{{{ {expression} }}}}"], {"value": value})


def test_a_rounding_to_a_billion_digits_takes_no_time(tmp_path: Path) -> None:
    sources = ["{{ 1.5 | round(999999999, 'ceil') }}", "{{ 12 | round(-999999999) }}", "{{ 1.25 | round(1) }}"]
    row = row_of("webhook", "http://localhost/", tmp_path, template=sources)
    assert json.loads(body_of(vars(row), sample("note", "x"))) == [1.5, 0, 1.2]


def test_values_keep_their_types(tmp_path: Path) -> None:
    shape = {
        "seconds": "{{ duration_s }}",
        "all": "{{ data }}",
        "some": ["{{ language or 'unknown' }}", "{% if text %}said{% else %}silent{% endif %}", 7, None],
        "text": "It was: {{ text }}\n",
    }
    row = row_of("webhook", "http://localhost/", tmp_path, template=shape)
    event = sample("note", "a {{ b }}")
    made = json.loads(body_of(vars(row), event))
    assert made == {
        "seconds": 1.5,
        "all": event["data"],
        "some": ["en", "said", 7, None],
        "text": "It was: a {{ b }}\n",
    }
    silent = json.loads(body_of(vars(row), sample("note", "", bare=True)))
    assert silent["some"][:2] == ["unknown", "silent"] and silent["seconds"] is None
