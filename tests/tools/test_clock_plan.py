"""tools/clock.py as a command: plan, plot, and what it says when it is asked for what cannot be."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "plans.json").read_text())
SVG = "{http://www.w3.org/2000/svg}"


def command(*words: str | Path, status: int = 0) -> str:
    """What the command printed; on stderr if it was expected to fail."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "clock.py", *words],
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (done.stderr if status == 0 else done.stdout)
    return done.stderr if status else done.stdout


def plan(*words: str) -> list[list[int]]:
    return [json.loads(line) for line in command("plan", *words).splitlines()]


def settings(vector: dict) -> list[str]:
    words = []
    for key, value in vector["settings"].items():
        words += [f"--{key}", value if isinstance(value, str) else ",".join(map(str, value))]
    return words


def test_the_firmwares_clock_is_the_one_that_is_imported() -> None:
    import clock

    assert clock.__file__ == str(ROOT / "firmware" / "clock" / "__init__.py")


def test_plan_is_what_the_firmware_plans() -> None:
    for mode in {vector["mode"] for vector in VECTORS}:
        vector = next(vector for vector in reversed(VECTORS) if vector["mode"] == mode)
        words = ["--mode", mode, "--seed", str(vector["seed"]), "--first", str(vector["minute"]), *settings(vector)]
        assert plan(*words) == [vector["plan"]], mode


def test_plan_prints_a_line_of_sixty_integers_a_minute() -> None:
    minutes = plan("--mode", "vetinari", "--minutes", "40", "--seed", "7")
    assert len(minutes) == 40 and len({tuple(times_ms) for times_ms in minutes}) == 40
    for times_ms in minutes:
        assert len(times_ms) == 60 and times_ms[-1] == 60_000
        assert all(500 <= b - a <= 1500 for a, b in itertools.pairwise([0, *times_ms]))
    assert minutes == plan("--mode", "vetinari", "--minutes", "40", "--seed", "7")
    assert minutes[5:] == plan("--mode", "vetinari", "--minutes", "35", "--seed", "7", "--first", "5")
    assert minutes[0] != plan("--mode", "vetinari", "--seed", "8")[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required"),
        (["paln"], "plan"),
        (["plan"], "--mode"),
        (["plan", "--mode", "vetinary"], "steady, vetinari"),
        (["plan", "--mode", "steady", "--minutes", "0"], '"0" is not an integer from 1'),
        (["plan", "--mode", "steady", "--minutes", "2", "--first", "1073741823"], "none after 1073741823"),
        (["plan", "--mode", "steady", "--seed", "x"], '"x" is not an integer from 0 to 1073741823'),
        (["plan", "--mode", "morse", "--morse", "a~b"], "no code for '~'"),
        (["plan", "--mode", "morse", "--morse", ""], "morse is '', but must be"),
        (["plan", "--mode", "pattern", "--pattern", "1,20"], "95 ms apart, but this movement needs 125"),
        (["plan", "--mode", "pattern", "--pattern", "1,0"], '"0" is not an integer from 1 to 10000'),
        (["plan", "--mode", "pattern", "--pattern", ",".join("1" * 61)], "1 to 60 weights"),
        (["plot", "--mode", "all"], "--out"),
        (["plot", "--mode", "nonsense", "--out", "/nowhere/x.svg"], "steady, vetinari"),
        (["plot", "--mode", "steady", "--out", "/nowhere/x.svg"], "cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(words: list[str], said: str) -> None:
    assert said in command(*words, status=2)


def test_each_subcommand_is_listed() -> None:
    listed = command("--help")
    assert all(f"    {name} " in listed for name in ("plan", "plot", "simulate", "calibrate"))


def test_a_plot_has_the_ticks_where_the_plan_has_them(tmp_path: Path) -> None:
    for mode in ("rush", "vetinari"):
        path = tmp_path / f"{mode}.svg"
        assert command("plot", "--mode", mode, "--out", path, "--seed", "5") == ""
        root = xml.etree.ElementTree.parse(path).getroot()
        (ticks,) = [element for element in root.iter(f"{SVG}path") if element.get("class") == "ticks"]
        drawn = [float(stroke.split()[0]) for stroke in (ticks.get("d") or "").split("M")[1:]]
        (times_ms,) = plan("--mode", mode, "--seed", "5", "--first", "60")
        width = drawn[-1]
        assert len(drawn) == 60
        assert all(abs(x - time_ms * width / 60_000) <= 0.05 + 1e-9 for x, time_ms in zip(drawn, times_ms, strict=True))


def test_the_plot_of_all_has_a_card_for_each_mode(tmp_path: Path) -> None:
    command("plot", "--out", tmp_path / "all.svg")
    root = xml.etree.ElementTree.parse(tmp_path / "all.svg").getroot()
    names = [element.text for element in root.iter(f"{SVG}text") if element.get("class") == "name"]
    assert names == list(dict.fromkeys(vector["mode"] for vector in VECTORS))
    assert len([element for element in root.iter(f"{SVG}path") if element.get("class") == "hand"]) == len(names)
    # Nothing goes over the edge of its card: the curves stay within the axes.
    for element in root.iter(f"{SVG}path"):
        if element.get("class") in ("hand", "others"):
            first = (element.get("d") or "").replace("V", "L").replace("M", "L").split("L")[1:]
            assert all(abs(float(point.split()[-1])) <= 104 for point in first)
