"""A simulated board, driven from CPython: the unmodified firmware on real MicroPython over simulated hardware.

    with Board(folder, board=..., config=...) as board:
        board.start()
        board.run(1.0)
        board.speak("hello.wav")
        board.press()
        board.run(2.0)
        board.release()
        board.run_until(lambda: receiver.bodies, timeout_s=60)

The board is a process of MicroPython's unix port. Its flash is a file in `folder` and survives `cut_power`. Time is the
simulator's: in `jump` mode it stands still between calls and goes from deadline to deadline in `run`; in `real` mode it
is the host's clock and goes on by itself. All times are microseconds since the `Board` was made, unless named
otherwise; `utc_us` turns them into true time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import host_programs
import numpy as np

from sim.chip.costs import COSTS

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
CHIP = Path(__file__).resolve().parent / "chip"
SAMPLE_RATE_HZ = 16_000
#: How long, in real seconds, the process may take to answer before it counts as hung.
PATIENCE_S = 120.0

RESET_POWER_ON, RESET_HARD, RESET_WATCHDOG, RESET_DEEP_SLEEP, RESET_SOFT = 1, 2, 3, 4, 5
WAKE_EXT0, WAKE_EXT1, WAKE_TIMER = 2, 3, 4

KIB = 1024
#: (type, subtype, offset, bytes, label): MicroPython's table for 8 MB of flash with the `ticks` partition added.
PARTITIONS: tuple[tuple[int, int, int, int, str], ...] = (
    (1, 2, 0x9000, 24 * KIB, "nvs"),
    (1, 1, 0xF000, 4 * KIB, "phy_init"),
    (0, 0, 0x10000, 0x1F0000, "factory"),
    (1, 0x40, 0x200000, 64 * KIB, "ticks"),
    (1, 0x81, 0x210000, 0x5F0000, "vfs"),
)
FLASH_BYTES = 8 * KIB * KIB
ANSWERS = ("time", "silence", "garbage", "unsynchronised", "stale")


class Edge(NamedTuple):
    """A pad of the chip changed its level, 0 or 1, at t_us."""

    pin: int
    level: int
    t_us: int


class Console(NamedTuple):
    """The board's end of a serial line: what it reads (without blocking) and where it prints; its name for itself."""

    input_fd: int
    output_fd: int
    name: str


class BoardError(RuntimeError):
    """The firmware or the simulator ended in a way that nobody asked for."""


class Board:
    """One board. Not for use from several threads.

    board, config: what becomes /board.json and /config.json on the board's file system at the first start; without a
    config there is neither.
    files: further files of the board's file system, by path. firmware: the folder whose main.py runs and whose modules
    are imported, as if it were on the board; None: what is on the board's own file system, as on a real one.
    mode: "jump" or "real". bits: 64 or 32, which build of MicroPython. heap_kb: its heap, which the simulator's own
    modules share (about 100 kB of it on 64 bits).
    start_utc: the true time when the simulation begins; in real mode always the host's.
    costs: changes to the chip's table of costs (sim/chip/costs.py). seed: of the simulator's own random numbers,
    and in jump mode of the chip's `os.urandom`.
    crystal_ppm: how much faster than true time all of the chip's time runs. rtc_ppm: the same in deep sleep, where the
    chip has only its RC oscillator (30000: after an hour asleep the real-time clock has gone on by 61.8 minutes, and a
    timer's wake comes as much too early); rtc_wander_ppm: each sleep has a rate of its own, this much off either way at
    most, uniformly. ntp_delay_ms: what the time server ntp.sim needs each way, (least, most); see `time_server`.
    console: a serial line with MicroPython's prompts, as sim.serial_board makes it; then main.py may end.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        board: Mapping[str, Any],
        config: Mapping[str, Any] | None,
        files: Mapping[str, bytes] | None = None,
        mode: str = "jump",
        bits: int = 64,
        heap_kb: int = 1024,
        start_utc: datetime | None = None,
        costs: Mapping[str, int] | None = None,
        seed: int = 1,
        crystal_ppm: int = 0,
        rtc_ppm: int = 0,
        rtc_wander_ppm: int = 0,
        ntp_delay_ms: tuple[float, float] = (5, 15),
        air: Mapping[str, str] | None = None,
        firmware: Path | str | None = FIRMWARE,
        partitions: Sequence[tuple[int, int, int, int, str]] = PARTITIONS,
        console: Console | None = None,
    ) -> None:
        if mode not in ("jump", "real"):
            raise ValueError(f"mode is 'jump' or 'real', not {mode!r}")
        unknown = set(costs or ()) - set(COSTS)
        if unknown:
            raise ValueError(f"no such cost: {', '.join(sorted(unknown))}")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.board = dict(board)
        self.edges: list[Edge] = []
        self.exits: list[dict[str, Any]] = []
        self._mode = mode
        self._bits = bits
        self._heap_kb = heap_kb
        self._firmware = None if firmware is None else str(Path(firmware).resolve())
        self._partitions = [list(row) for row in partitions]
        self._console = console
        self._raw = False
        self._watchdog: list[int] | None = None
        self._costs = COSTS | dict(costs or {})
        self._seed = seed
        self._crystal_ppm = crystal_ppm
        self._rtc_ppm = rtc_ppm
        self._rtc_wander_ppm = rtc_wander_ppm
        self._sound: dict[str, Any] = {"speak": None}
        self._sleep_rates = random.Random(seed)
        self._names_found = True
        self._time_servers: dict[str, dict[str, Any]] = {}
        self._host_epoch_ns = time.time_ns()
        begins = datetime.now(UTC) if start_utc is None or mode == "real" else start_utc
        self._start_utc_us = round(begins.timestamp() * 1e6) if mode == "jump" else self._host_epoch_ns // 1000
        self._air = dict(air) if air is not None else _networks(config or {})
        self._in_range = True
        self._levels: dict[int, int] = {}
        self._adc: dict[int, int] = {}
        self._now_us = 0
        self._rtc_offset_us: int | None = None
        self._rtc_memory = ""
        self._asleep: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._commands: Any = None
        self._reader: threading.Thread | None = None
        self._news = threading.Condition()
        self._paused = False
        self._exit: dict[str, Any] | None = None
        described = {} if config is None else {"/board.json": self.board, "/config.json": dict(config)}
        self._to_install = {
            **{path: json.dumps(content).encode() for path, content in described.items()},
            **{path if path.startswith("/") else "/" + path: data for path, data in (files or {}).items()},
        }
        flash = self.folder / "flash.img"
        if flash.exists():
            self._to_install = {}
        else:
            flash.write_bytes(b"\xff" * FLASH_BYTES)

        self.time_server(delay_ms=ntp_delay_ms)

    # Power

    def start(self) -> None:
        """Power on (or on again after `cut_power`)."""
        if self._process is not None or self._asleep is not None:
            raise BoardError("the board is on already")
        self._launch([RESET_POWER_ON, 0])

    def cut_power(self) -> None:
        """At this very instant. What was written to the flash is there, nothing else is."""
        self._catch_up()
        self._end_process()
        self._asleep = None
        self._rtc_offset_us = None
        self._rtc_memory = ""

    def close(self) -> None:
        """End the board's process and leave its folder."""
        self._end_process()
        self._asleep = None

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_on(self) -> bool:
        return self._process is not None

    @property
    def is_asleep(self) -> bool:
        """In deep sleep."""
        return self._asleep is not None

    # Time

    @property
    def now_us(self) -> int:
        if self._mode == "real":
            return (time.time_ns() - self._host_epoch_ns) // 1000
        return self._now_us

    def utc_us(self, t_us: int) -> int:
        """True time, microseconds since 1970, at t_us of the simulation."""
        return self._start_utc_us + t_us

    def run(self, seconds: float) -> None:
        """Let `seconds` of the simulation's time pass. Raises BoardError when main.py ends."""
        self._run_to(self.now_us + round(seconds * 1e6))

    def run_until(self, condition: Callable[[], Any], timeout_s: float, step_s: float = 0.05) -> None:
        """Let time pass until condition() is true; looked at each `step_s` of the simulation's time.

        Raises TimeoutError, with the end of the console, after timeout_s of the simulation's time.
        """
        deadline_us = self.now_us + round(timeout_s * 1e6)
        while not condition():
            if self.now_us >= deadline_us:
                raise TimeoutError(f"not within {timeout_s} s; the console's end:\n{self.console[-2000:]}")
            self._run_to(min(deadline_us, self.now_us + round(step_s * 1e6)))

    # The world around it

    def press(self, bounces: int = 0) -> None:
        """bounces: how often the contact opens again before it stays closed; each takes 0.8 ms of simulated time."""
        for _ in range(bounces):
            self.touch(self.board["pins"]["button"], 0)
            self.run(0.0004)
            self.release()
            self.run(0.0004)
        self.touch(self.board["pins"]["button"], 0)

    def release(self) -> None:
        self.touch(self.board["pins"]["button"], 1)

    def touch(self, pin: int, level: int) -> None:
        """Put a level on an input."""
        self._levels[pin] = level
        self._command({"touch": pin, "level": level})
        self._wake_by_pin()

    def speak(self, sound: Path | str | None) -> None:
        """From now on the microphone hears this sound file (once), or silence. Any format that PyAV reads."""
        self._sound = {"speak": None}
        if sound is not None:
            words = self.folder / "sound.s32"
            frames = write_microphone_words(Path(sound), words)
            self._sound = {"speak": str(words.resolve()), "frames": frames, "since": self.now_us}
        self._command(self._sound)

    def wifi(self, present: bool) -> None:
        """Take all networks away, or bring them back."""
        self._in_range = present
        self._command({"wifi": present})

    def names(self, found: bool) -> None:
        """Whether name servers answer; if not, a look-up takes the chip's `dns_failure_us` and fails."""
        self._names_found = found
        self._command({"names": found})

    def time_server(
        self,
        name: str = "ntp.sim",
        *,
        delay_ms: tuple[float, float] | None = None,
        back_ms: tuple[float, float] | None = None,
        wrong_ms: float | None = None,
        answers: str | None = None,
    ) -> None:
        """How a time server inside the simulator behaves from now on; what is not given stays. Names end in `.sim`.

        delay_ms: (least, most) of what each way takes, drawn uniformly and independently; back_ms: the same for the way
        back alone. wrong_ms: how far its clock is ahead of the true time. answers: "time"; "silence"; "garbage", up to
        59 random bytes; "unsynchronised", leap 3 and stratum 16; "stale", to another request; or four capital letters,
        the kiss of death.
        """
        if not name.endswith(".sim"):
            raise ValueError(f"names inside the simulator end in .sim, not {name!r}")
        if answers and answers not in ANSWERS and not (len(answers) == 4 and answers.isupper()):
            raise ValueError(f"a time server answers {', '.join(ANSWERS)} or four capital letters, not {answers!r}")
        server = self._time_servers.setdefault(
            name, {"ntp": name, "there_us": (5000, 15_000), "back_us": (5000, 15_000), "wrong_us": 0, "answers": "time"}
        )
        for key, range_ms in (("there_us", delay_ms), ("back_us", back_ms or delay_ms)):
            if range_ms is not None:
                server[key] = [round(limit * 1000) for limit in range_ms]
        if wrong_ms is not None:
            server["wrong_us"] = round(wrong_ms * 1000)
        if answers is not None:
            server["answers"] = answers
        self._command(server)

    def voltage(self, pin: int, millivolts: int) -> None:
        """Put a voltage on an ADC pin."""
        self._adc[pin] = millivolts
        self._command({"adc": pin, "mv": millivolts})

    def interrupt(self) -> None:
        """A Ctrl-C on the console, while a program runs that it shall end."""
        self._command({"interrupt": True})

    def interrupt_hard(self) -> None:
        """The same for a program that never looks at the time nor waits: a signal to the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def server_hangs(self, hangs: bool) -> None:
        """Jump mode: a real server will not answer, so time may jump to the firmware's time-out."""
        self._command({"hangs": hangs})

    # What it shows

    @property
    def console(self) -> str:
        """What the firmware printed."""
        path = self.folder / "console.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def level(self, pin: int) -> int:
        """What the pad of an output has now."""
        for edge in reversed(self.edges):
            if edge.pin == pin:
                return edge.level
        return 0

    # Inside

    def _launch(self, cause: list[int]) -> None:
        install = {}
        for number, (path, data) in enumerate(self._to_install.items()):
            source = self.folder / f"install-{number}"
            source.write_bytes(data)
            install[path] = str(source.resolve())
        self._to_install = {}
        setup = {
            "mode": self._mode,
            "now_us": self.now_us,
            "host_epoch_ns": self._host_epoch_ns,
            "start_utc_us": self._start_utc_us,
            "costs": self._costs,
            "seed": self._seed,
            "crystal_ppm": self._crystal_ppm,
            "names_found": self._names_found,
            "time_servers": list(self._time_servers.values()),
            "cause": cause,
            "rtc_offset_us": self._rtc_offset_us,
            "rtc_memory": self._rtc_memory,
            "levels": list(self._levels.items()),
            "adc": list(self._adc.items()),
            "sound": self._sound,
            "microphone_power": self.board.get("pins", {}).get("microphone_power"),
            "air": self._air,
            "in_range": self._in_range,
            "flash": str((self.folder / "flash.img").resolve()),
            "nvs": str((self.folder / "nvs.json").resolve()),
            "partitions": self._partitions,
            "firmware": self._firmware,
            "install": install,
            "console": self._console.name if self._console else None,
            "raw": self._raw,
            "watchdog": self._watchdog,
        }
        self._raw, self._watchdog = False, None
        commands_out, commands_in = os.pipe()
        reports_out, reports_in = os.pipe()
        with (self.folder / "console.txt").open("ab") as console:
            self._process = subprocess.Popen(
                [
                    *host_programs.micropython(self._bits),
                    *("-X", f"heapsize={self._heap_kb}k"),
                    *(str(CHIP / "boot.py"), str(commands_out), str(reports_in)),
                ],
                stdin=self._console.input_fd if self._console else subprocess.DEVNULL,
                stdout=self._console.output_fd if self._console else console,
                stderr=self._console.output_fd if self._console else console,
                pass_fds=(commands_out, reports_in),
                start_new_session=True,
            )
        os.close(commands_out)
        os.close(reports_in)
        self._commands = os.fdopen(commands_in, "wb", buffering=0)
        self._paused = False
        self._exit = None
        self._seed += 1
        self._reader = threading.Thread(
            target=self._read_reports, args=(os.fdopen(reports_out, "rb"), self._process), daemon=True
        )
        self._reader.start()
        self._send(setup)
        if self._mode == "jump":
            self._await_pause()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._commands.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError as error:
            raise BoardError(f"the board's process has ended; the console's end:\n{self.console[-2000:]}") from error

    def _command(self, message: dict[str, Any]) -> None:
        """Tell the board, if it is on; it is told its surroundings anew at each start."""
        if self._process is not None and self._exit is None:
            self._send(message)

    def _read_reports(self, reports: Any, process: subprocess.Popen[bytes]) -> None:
        with reports:
            for line in reports:
                message = json.loads(line)
                if "pin" in message:
                    self.edges.append(Edge(message["pin"], message["level"], message["t"]))
                    continue
                with self._news:
                    if process is not self._process:
                        return
                    if "paused" in message:
                        self._now_us = message["paused"]
                        self._paused = True
                    elif "exit" in message:
                        self._now_us = message["t"]
                        self._exit = message
                    elif "rtc_offset_us" in message:
                        self._rtc_offset_us = message["rtc_offset_us"]
                    elif "rtc_memory" in message:
                        self._rtc_memory = message["rtc_memory"]
                    self._news.notify_all()

    def _await_pause(self) -> None:
        """Jump mode: until the board stands still, at the end of its grant or for good."""
        process = self._process
        assert process is not None
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            while not self._paused and self._exit is None:
                self._news.wait(0.2)
                if process.poll() is not None and not self._paused and self._exit is None:
                    raise BoardError(f"the board's process ended with {process.returncode}:\n{self.console[-2000:]}")
                if time.monotonic() > deadline:
                    raise BoardError(f"the board hung for {PATIENCE_S} s:\n{self.console[-2000:]}")

    def _run_to(self, target_us: int) -> None:
        while True:
            self._follow_exit()
            if self._asleep is not None:
                wakes_us = self._asleep["until"]
                if wakes_us is None or wakes_us > target_us:
                    self._pass_time(target_us)
                    return
                self._pass_time(wakes_us)
                self._launch_from_sleep(WAKE_TIMER)
                continue
            if self._process is None:
                self._pass_time(target_us)
                return
            if self._mode == "jump":
                if self._now_us >= target_us:
                    return
                self._paused = False
                self._send({"run": target_us})
                self._await_pause()
                if self._exit is None and self._now_us >= target_us:
                    return
            else:
                with self._news:
                    if self._exit is None:
                        left_s = (target_us - self.now_us) / 1e6
                        if left_s <= 0:
                            return
                        self._news.wait(min(left_s, 0.1))
                if self._exit is None and self._process.poll() is not None:
                    raise BoardError(f"the board's process ended:\n{self.console[-2000:]}")

    def _pass_time(self, target_us: int) -> None:
        if self._mode == "jump":
            self._now_us = max(self._now_us, target_us)
        else:
            time.sleep(max(0.0, (target_us - self.now_us) / 1e6))

    def _catch_up(self) -> None:
        if self._exit is not None:
            self._follow_exit()

    def _follow_exit(self) -> None:
        """The firmware reset the chip, went to deep sleep, or ended."""
        left = self._exit
        if left is None:
            return
        self.exits.append(left)
        self._end_process()
        if left["exit"] == "deepsleep":
            self._fall_asleep(left)
        elif left["exit"] == "reset":
            self._raw, self._watchdog = left.get("raw", False), left.get("watchdog")
            self._launch([left["cause"], 0])
        else:
            raise BoardError(f"{left['why']}; the console's end:\n{self.console[-2000:]}")

    def _fall_asleep(self, left: dict[str, Any]) -> None:
        rate = 1 + (self._rtc_ppm + self._sleep_rates.uniform(-1, 1) * self._rtc_wander_ppm) / 1e6
        until = None if left["for_us"] is None else left["t"] + round(left["for_us"] / rate)
        self._asleep = {"wake": left["wake"], "since": left["t"], "until": until, "rate": rate}
        self._rtc_memory = left["rtc_memory"]
        self._rtc_offset_us = left["rtc_offset_us"]
        self._wake_by_pin()

    def _wake_by_pin(self) -> None:
        if self._asleep is None:
            return
        for reason, pins, level in self._asleep["wake"]:
            if any(self._levels.get(pin, 1 - level) == level for pin in pins):
                self._launch_from_sleep(reason)
                return

    def _launch_from_sleep(self, reason: int) -> None:
        assert self._asleep is not None and self._rtc_offset_us is not None
        slept_us = self.now_us - self._asleep["since"]
        # The offset is to the chip's clock, which did not run by its crystal meanwhile.
        self._rtc_offset_us += round(slept_us * (self._asleep["rate"] - 1 - self._crystal_ppm / 1e6))
        self._asleep = None
        self._launch([RESET_DEEP_SLEEP, reason])

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._commands.close()
        if self._reader is not None:
            self._reader.join(timeout=10)
        self._exit = None
        for pin in {edge.pin for edge in self.edges}:
            if self.level(pin):
                self.edges.append(Edge(pin, 0, self.now_us))


def _networks(config: Mapping[str, Any]) -> dict[str, str]:
    """By default exactly the networks that the board is configured for are in the air."""
    return {network["ssid"]: network.get("password", "") for network in config.get("wifi", [])}


def _samples(sound: Path) -> Any:
    """The sound as a microphone of 16 kHz would hear it: int16, one dimension. Any format that PyAV reads."""
    with av.open(str(sound)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        pieces = [
            piece.to_ndarray()[0] for frame in [*container.decode(audio=0), None] for piece in resampler.resample(frame)
        ]
    return np.concatenate(pieces) if pieces else np.zeros(0, "<i2")


def duration_s(sound: Path) -> float:
    """How long it takes to speak a sound file."""
    return len(_samples(sound)) / SAMPLE_RATE_HZ


def write_microphone_words(sound: Path, words: Path) -> int:
    """Turn a sound file into what an INMP441 would give: 32-bit words, 24 bits of them used, 16 kHz; returns frames.

    Full scale of the file becomes −12 dBFS of the microphone, about what a loud voice near it gives (the microphone has
    −26 dBFS at 94 dB SPL); with an offset and the noise floor of the data sheet (−87 dBFS).
    """
    samples = _samples(sound).astype(np.float64)
    noise = np.random.default_rng(1).normal(0, 2**31 * 10 ** (-87 / 20), len(samples))
    level = samples * 2**16 * 10 ** (-12 / 20) + 0x0005_2000 + noise
    data = np.clip(np.round(level), -(2**31), 2**31 - 1).astype("<i4") & ~np.int32(0xFF)
    words.write_bytes(data.tobytes())
    return len(data)
