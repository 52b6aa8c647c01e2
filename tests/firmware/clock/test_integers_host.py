"""The pure cores use integers only: refused are float literals and `/`, found in the syntax trees."""

import ast
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).parents[3] / "firmware"
HARDWARE = {"app.py", "sync.py"}
PURE = sorted(path for path in (FIRMWARE / "clock").rglob("*.py") if path.name not in HARDWARE)
PURE.append(FIRMWARE / "device" / "sntp.py")
IMPURE = {"machine", "network", "esp32", "asyncio", "time", "socket"}


def offences(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, (float, complex)):
            yield f"line {node.lineno}: {node.value}"
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div):
            yield f"line {node.lineno}: /"
        elif isinstance(node, ast.Name) and node.id == "float":
            yield f"line {node.lineno}: float"


def test_the_cores_are_here():
    names = {path.name for path in PURE}
    assert {"schedule.py", "dial.py", "dice.py", "timezone.py", "timekeeper.py", "vetinari.py", "sntp.py"} <= names


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_integers_only(path):
    assert list(offences(path.read_text())) == []


@pytest.mark.parametrize("bad", ["x = 0.5", "x = a / b", "x /= 2", "x = float(y)", "x = 1e3", "x = 2j"])
def test_what_is_refused(bad):
    assert list(offences(bad))


@pytest.mark.parametrize("path", [path for path in PURE if path.name != "sntp.py"], ids=lambda path: path.name)
def test_pure_modules_import_no_hardware(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & IMPURE, path


def test_sntp_imports_hardware_only_where_it_asks():
    tree = ast.parse((FIRMWARE / "device" / "sntp.py").read_text())
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
