"""What the documentation says against what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from device import config
from device.light import PATTERNS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def test_each_light_code_is_explained() -> None:
    text = (ROOT / "docs" / "pendant.md").read_text() + (ROOT / "docs" / "clock.md").read_text()
    for name in PATTERNS:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("app", ["pendant", "clock"])
def test_each_setting_of_a_board_is_shown(app: str) -> None:
    text = (ROOT / "docs" / f"{app}.md").read_text()
    for key in config._REQUIRED[app]:
        assert f'"{key}"' in text or f"`{key}`" in text, key


def test_each_target_of_the_makefile_has_its_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^{target}:.*## \w", text, re.MULTILINE), target


def test_what_the_readme_says_to_make_can_be_made() -> None:
    text = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", text, re.MULTILINE), target
