"""Packages for updates: what is in them, and that MicroPython loads it."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import host_programs
import package
import pytest

MPY = {64: 2822, 32: 1798}  # x64 and x86, as `sys.implementation._mpy & 65535` has it there


@pytest.mark.parametrize("app", package.APPS)
@pytest.mark.parametrize("mpy", [2822, 11014])
def test_a_package_is_one_gadget_and_its_manifest(tmp_path: Path, app: str, mpy: int) -> None:
    out = tmp_path / "out"
    manifest = package.package(app, mpy, out)
    assert json.loads((out / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert (manifest["app"], manifest["mpy"]) == (app, mpy)
    assert len((out / "manifest.json").read_bytes()) <= 16_384
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {file[0] for file in manifest["files"]} | {"manifest.json"}
    sources = {
        path.relative_to(package.FIRMWARE).with_suffix(".mpy").as_posix()
        for part in ("device", app)
        for path in (package.FIRMWARE / part).rglob("*.py")
    }
    assert names == sources | {"manifest.json"}
    for name, length, sha256 in manifest["files"]:
        content = (out / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (length, sha256)
        assert content[:2] == b"M\x06"
        assert content[2] in (0, mpy >> 8)  # without native code, or with this machine's


@pytest.mark.parametrize("bits", [64, 32])
def test_micropython_loads_native_code_of_its_own_number(tmp_path: Path, bits: int) -> None:
    command = host_programs.micropython(bits)
    asked = "import sys; print(sys.implementation._mpy & 65535)"
    assert int(subprocess.run([*command, "-c", asked], capture_output=True, text=True, check=True).stdout) == MPY[bits]
    package.package("pendant", MPY[bits], tmp_path / "out")
    load = "from pendant import adpcm, adpcm_viper; print(adpcm.encode is adpcm_viper.encode)"
    done = subprocess.run([*command, "-c", load], capture_output=True, text=True, check=False, cwd=tmp_path / "out")
    assert done.stdout == "True\n", done.stdout + done.stderr
    package.package("pendant", MPY[96 - bits], tmp_path / "other")
    load = "import pendant.adpcm_viper"
    done = subprocess.run([*command, "-c", load], capture_output=True, text=True, check=False, cwd=tmp_path / "other")
    assert "incompatible .mpy" in done.stdout + done.stderr


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(package.PackageError, match="holds other things"):
        package.package("clock", 2822, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("mpy", [0, 775, 6, 0xF306])
def test_a_number_that_cannot_be_packed_for(tmp_path: Path, mpy: int) -> None:
    with pytest.raises(package.PackageError, match=f"mpy={mpy}"):
        package.package("clock", mpy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_does_not_compile_is_named(tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(package.FIRMWARE, firmware)
    (firmware / "clock" / "dial.py").write_text("def f(:\n")
    with pytest.raises(package.PackageError, match=r"clock/dial\.py"):
        package.package("clock", 2822, tmp_path / "out", firmware)
    package.package("pendant", 2822, tmp_path / "out", firmware)  # a failed one may be replaced
