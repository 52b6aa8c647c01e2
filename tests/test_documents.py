"""What the documentation says against what is there.

Its shell blocks: one marked ```sh is run, line by line, in an empty folder that has this tree's files; one marked
```console needs a board, a person or the network: what can be read of it is checked, the commands and their options.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import board_command
import pytest
import typer.main
from clock import modes
from device import config
from device.light import PATTERNS
from offbeat.cli import app as offbeat
from offbeat.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "boards").glob("*/README.md"))]
ALL = "\n".join(document.read_text() for document in DOCUMENTS)
METHODS = ("get", "post", "put", "patch", "delete", "head")


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", document.read_text()):
        if target.startswith("https://"):
            continue
        found = (document.parent / target).resolve() if target else document
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


def test_every_document_can_be_found() -> None:
    """From the README, by links."""
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        seen.add(document)
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            found = (document.parent / target).resolve()
            if found.is_dir() and not target.startswith("https://"):
                waiting += [page for page in found.glob("*/README.md") if page not in seen]
            elif found.suffix == ".md" and found not in seen:
                waiting.append(found)
    assert set(DOCUMENTS) <= seen, set(DOCUMENTS) - seen


def test_each_light_code_is_explained() -> None:
    text = (ROOT / "docs" / "pendant.md").read_text() + (ROOT / "docs" / "clock.md").read_text()
    for name in PATTERNS:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("app", ["pendant", "clock"])
def test_each_required_setting_of_a_board_is_shown(app: str) -> None:
    text = (ROOT / "docs" / f"{app}.md").read_text()
    for key in config._REQUIRED[app]:
        assert f'"{key}"' in text or f"`{key}`" in text, key


def test_each_setting_of_a_gadget_is_shown() -> None:
    text = (ROOT / "docs" / "pendant.md").read_text() + (ROOT / "docs" / "clock.md").read_text()
    for key in config._CONFIG:
        assert f'"{key}"' in text or f"`{key}`" in text, key


def test_each_optional_part_of_a_board_is_shown() -> None:
    schema = json.loads((ROOT / "boards" / "schema.json").read_text())["properties"]
    pins = set(schema["pins"]["properties"]) - set(schema["pins"]["required"])
    wired = {name for name in pins if name.startswith("microphone")} | {"coil"}
    for key in [*sorted(pins - wired), *schema["movement"]["properties"], "battery_divider"]:
        assert f"`{key}`" in ALL or f'"{key}"' in ALL, key


def test_each_mode_is_in_the_table() -> None:
    text = (ROOT / "docs" / "clock.md").read_text()
    for name in modes.files():
        assert f"| `{name}` |" in text, name


def test_each_setting_of_the_server_is_in_the_table() -> None:
    text = (ROOT / "docs" / "server.md").read_text()
    for name in Settings.model_fields:
        assert f"| `{PREFIX}{name.upper()}` |" in text, name


def server_commands() -> Iterator[str]:
    def walk(command: object, words: str) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words
        for name in inner or ():
            yield from walk(inner[name], f"{words} {name}")

    return walk(typer.main.get_command(offbeat), "offbeat")


def test_each_command_of_the_server_is_in_its_documents() -> None:
    commands = list(server_commands())
    assert "offbeat serve" in commands and "offbeat device add" in commands
    for command in commands:
        assert f"`{command}" in ALL, command


def routes() -> Iterator[tuple[str, str]]:
    """(method, path) of each route of the server, read from its source."""
    for source in sorted((ROOT / "server" / "offbeat").rglob("*.py")):
        tree = ast.parse(source.read_text())
        prefix = ""
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "APIRouter":
                prefix = "".join(
                    word.value.value
                    for word in node.keywords
                    if word.arg == "prefix" and isinstance(word.value, ast.Constant)
                )
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for made in node.decorator_list:
                if not isinstance(made, ast.Call) or not isinstance(made.func, ast.Attribute):
                    continue
                if made.func.attr in METHODS and getattr(made.func.value, "id", "") in ("app", "router"):
                    path = made.args[0]
                    assert isinstance(path, ast.Constant), (source, node.name)
                    yield made.func.attr.upper(), prefix + path.value


def test_each_endpoint_is_in_a_table() -> None:
    found = set(routes())
    assert ("POST", "/api/device/check-in") in found and len(found) >= 15
    for method, path in sorted(found):
        named = re.escape(f"`{method} {path}") + r"[`?]"
        shorter = named.replace("note_id", "id")  # as the protocol calls it
        assert re.search(named, ALL) or re.search(shorter, ALL), f"{method} {path}"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(action.choices)


def test_each_command_for_boards_is_in_the_table_and_setup_s_options_too() -> None:
    text = (ROOT / "docs" / "offbeat-board.md").read_text()
    commands = subcommands(board_command.parser())
    for name in commands:
        assert f"| `{name}` |" in text, name
    told = set(re.findall(r"^\| `([a-z][a-z-]+)` \|", text, re.MULTILINE))
    assert told <= set(commands), told - set(commands)
    for action in commands["setup"]._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}" in text, option


@pytest.mark.parametrize("tool", ["clock", "pendant"])
def test_each_command_of_the_tools_is_shown(tool: str) -> None:
    source = ast.parse((ROOT / "tools" / f"{tool}.py").read_text())
    (named,) = [
        node.value
        for node in source.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COMMANDS"
    ]
    assert isinstance(named, ast.Dict) and named.keys
    for key in named.keys:
        assert isinstance(key, ast.Constant)
        assert f"tools/{tool}.py {key.value}" in ALL, key.value


# Targets of make


def test_each_target_of_the_makefile_has_its_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^{target}:.*## \w", text, re.MULTILINE), target


def test_what_the_documents_say_to_make_can_be_made() -> None:
    text = (ROOT / "Makefile").read_text()
    named = re.findall(r"(?:^|`)(?:[A-Z]+=\S+ )*make ([a-z]+)", ALL, re.MULTILINE)
    assert "demo" in named
    for target in named:
        assert re.search(rf"^{target}:", text, re.MULTILINE), target


# Shell blocks


def blocks(language: str) -> list[tuple[str, str]]:
    """(document's name, block) of one kind."""
    found = []
    for document in DOCUMENTS:
        for kind, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", document.read_text(), re.MULTILINE | re.DOTALL):
            if kind == language:
                found.append((document.name, block))
    return found


def lines(block: str) -> list[list[str]]:
    return [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def test_every_block_says_what_it_is() -> None:
    for document in DOCUMENTS:
        opened = re.findall(r"^ *```(\w*)$", document.read_text(), re.MULTILINE)[::2]
        assert set(opened) <= {"sh", "console", "json", "python", "text"}, (document.name, opened)


@pytest.mark.parametrize(("name", "block"), blocks("sh"), ids=lambda text: text.split("\n")[0][:60])
def test_what_can_be_run_runs(name: str, block: str, tmp_path: Path) -> None:
    for path in ROOT.iterdir():
        if path.name not in (".git", "build"):
            (tmp_path / path.name).symlink_to(path)
    environment = os.environ | {"OFFBEAT_DATA": str(tmp_path / "data"), "OFFBEAT_CACHE": str(ROOT / ".cache")}
    done = subprocess.run(  # `timeout` ends the whole of it, also what bash has started
        ["timeout", "--kill-after=5", "60", "bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{name}:\n{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_what_cannot_be_run_here_is_at_least_understood() -> None:
    """The commands of every block are there, and offbeat-board takes the options given."""
    understood = 0
    known = set(server_commands())
    for name, block in blocks("console") + blocks("sh"):
        for words in lines(block):
            while words and "=" in words[0]:  # set for this command, or for the lines after it
                words = words[1:]
            if not words:
                continue
            program, rest = words[0], words[1:]
            if program.endswith("offbeat-board"):
                with contextlib.redirect_stderr(io.StringIO()) as problem:
                    try:
                        board_command.parser().parse_args(rest)
                    except SystemExit:
                        raise AssertionError(f"{name}: {' '.join(words)}\n{problem.getvalue()}") from None
                understood += 1
            elif program.endswith("bin/offbeat") or program == "offbeat":
                assert any(" ".join(["offbeat", *rest]).startswith(command) for command in known), (name, words)
                understood += 1
            elif program.endswith("python") and rest[0] != "-m":
                assert (ROOT / rest[0]).is_file(), (name, words)
                understood += 1
            else:
                assert program in ("make", "git", "cd", "curl", "pip") or (ROOT / program).exists(), (name, words)
    assert understood >= 10


def test_the_mode_of_five_minutes_is_one() -> None:
    """The example in contributing.md."""
    ((_, block),) = [found for found in blocks("python") if found[0] == "contributing.md"]
    mode: dict = {}
    exec(re.sub(r"^   ", "", block, flags=re.MULTILINE), mode)
    out = [0] * 60
    mode["plan"](out, None)
    gaps = [later - earlier for earlier, later in zip([0, *out], out, strict=False)]
    assert out[-1] == 60_000 and min(gaps) == mode["LEAST_MS"]
