"""`pendant.py simulate`: random sequences beside a server that misbehaves, and a ledger of all notes.

The board runs the unmodified firmware. What a note is, byte for byte, is read from the board's flash by another
program with the same file system: after each step, when the server hears of it for the first time, and at each cut of
power. The server's end is protocol_model.Model, which is strict; in front of it, faults are drawn by chance, until the
sequence is over. Then every note that was stored must arrive, once, as it was on the flash. Where a fault falls depends
on the host's timing, too: a sequence that failed need not fail again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import hashlib
import hmac
import json
import multiprocessing
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections import Counter
from pathlib import Path
from typing import Any

import host_programs
import loopback_http
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from protocol_model import Model
from rich.console import Console
from rich.progress import Progress
from sim.board import FIRMWARE, PARTITIONS, Board, BoardError

HERE = Path(__file__).resolve().parent
BOARD = HERE.parent / "boards" / "xiao-esp32s3" / "board.json"
TOKEN = "s" * 43
APART_S = 0.05  # a press sooner after a release counts as its bouncing
MOST_BOUNCES = 8  # of a press, of 0.8 ms each
START_S = 1.5  # after power-on, until a press is seen
# A handshake may hold up the button's handler for so long: the hold is seen later, and is shorter.
BLOCKED_S = 0.9
SURELY_S = BLOCKED_S + 0.35  # what is no tap even so
#: What the ledger counts. `holds`: of SURELY_S at least, of which `unheard` gave no recording. `recorded` = `delivered`
#: + `waiting` + `lost` + `lost_to_cut`; `marked` ones are delivered.
COUNTS = (
    "holds", "unheard", "recorded", "delivered", "waiting", "lost", "doubled", "damaged", "lost_to_cut", "marked",
    "violations",
)  # fmt: skip
OF_A_PATCH = ("413", "taken", "dropped", "wrong digest", "lost answer", "reset")
FAULTS = ("500", "503", "507", "401", "redirect", "garbage", "too long", "no length", "truncated", *OF_A_PATCH)
KINDS = (*["hold"] * 5, *["cut"] * 4, "hands-free", "tap", "outage", "hang", "wait")  # what a step may be
FLASHED = "FLASH WRITTEN WHILE RECORDING"
SETTLE_S = 1800  # of simulated time, for what waits when the faults have ended; back-off is 300 s at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sequences", type=int, default=20, metavar="N", help="how many sequences (20)")
    parser.add_argument("--faults", type=int, default=1, metavar="SEED", help="of the sequences and the faults (1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N", help="at a time (one a core)")


def run(arguments: argparse.Namespace) -> int:
    ledger = simulate(arguments.sequences, arguments.faults, arguments.processes)
    print(json.dumps(ledger, indent=1))
    return 0 if sound(ledger) else 1


def sound(ledger: dict[str, Any]) -> bool:
    """Whether nothing became of any note that must not."""
    wrong = sum(ledger[key] for key in ("unheard", "waiting", "lost", "doubled", "damaged", "violations"))
    whole = ledger["recorded"] == ledger["delivered"] + ledger["lost_to_cut"]
    return wrong == 0 and whole and not ledger["troubles"]


def simulate(sequences: int, seed: int, processes: int | None = None, firmware: Path = FIRMWARE) -> dict[str, Any]:
    """The ledger of so many sequences: COUNTS, `faults` by kind, and `troubles`: what must not be, with its seed."""
    ledger: dict[str, Any] = dict.fromkeys(COUNTS, 0)
    faults: Counter[str] = Counter()
    troubles: list[str] = []
    seeds = [seed * 1_000_003 + number for number in range(sequences)]
    context = multiprocessing.get_context("spawn")  # there are threads in each of them
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _path, (sys.path,))
    with (
        pool,
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task("sequences", total=sequences)
        for one in pool.map(_sequence, seeds, [str(firmware)] * sequences):
            progress.advance(task)
            for key in COUNTS:
                ledger[key] += one[key]
            faults.update(one["faults"])
            troubles += one["troubles"]
    return ledger | {"sequences": sequences, "faults": dict(sorted(faults.items())), "troubles": troubles}


def _path(path: list[str]) -> None:
    sys.path[:] = path


def _sequence(seed: int, firmware: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, Sequence(Path(folder), seed, firmware) as sequence:
        return sequence.play()


def watched(firmware: Path, folder: Path) -> Path:
    """A copy in `folder` of the pendant's firmware that says FLASHED each time the flash is written while recording."""
    shutil.copytree(firmware, folder)
    control = folder / "pendant" / "control.py"
    marker = "        if self._power.woken_by_button:\n"
    text = control.read_text()
    assert text.count(marker) == 1
    put_in = (
        "        import machine\n"
        "        ears = self._microphone\n"
        f"        machine.I2S.flash.during.append(lambda us: print({FLASHED!r}) if ears.recording else None)\n"
    )
    control.write_text(text.replace(marker, put_in + marker))
    return folder


class FlashReader:
    """Reads the notes on a board's flash, from any thread, while the board stands still or waits for an answer."""

    def __init__(self, image: Path) -> None:
        offset, size_bytes = next((row[2], row[3]) for row in PARTITIONS if row[4] == "vfs")
        self._question = f"{image} {offset} {size_bytes}\n"
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*host_programs.micropython(), "-X", "heapsize=16m", str(HERE / "pendant_flash_reader.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def notes(self) -> dict[str, bytes]:
        """Name of the file → its bytes."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(self._question)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the flash could not be read: see the error of pendant_flash_reader.py above")
        return {name: bytes.fromhex(text) for name, text in json.loads(line).items()}

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Server:
    """The model behind TLS, with faults. `likely`: of a fault, for each request, 0 to 1. `hangs`: answers nothing."""

    def __init__(self, folder: Path, chance: random.Random, on_new_note: Any) -> None:
        self.model = Model("p7", TOKEN)
        if chance.random() < 0.5:
            self.model.revision, self.model.settings = 1, {"gain_db": chance.choice((-12, -6, 6, 12))}
        if chance.random() < 0.3:  # one whose last file never comes: all that it writes, but no restart
            self.model.update = "9.9.9"
        self.files = [(f"pendant/m{number}.py", chance.randbytes(20_000)) for number in range(3)]
        self.mpy = 0  # as reported
        self.chance = chance
        self.likely = 0.0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.faults: Counter[str] = Counter()
        self.heard_of: set[str] = set()
        self.on_new_note = on_new_note
        self.lock = threading.Lock()
        chain, key, self.der = make_certificate(folder)
        owner = self

        class Handler(_Handler):
            bad = owner

        self._listener = loopback_http.Server(Handler, (chain, key))
        self.port = self._listener.server_port

    def close(self) -> None:
        self.goes_on.set()
        self._listener.close()


class _Handler(loopback_http.Handler):
    bad: Server

    def do_HEAD(self) -> None:
        self._serve()

    do_PATCH = do_POST = do_GET = do_HEAD

    def _serve(self) -> None:
        bad = self.bad
        headers = {name.lower(): value for name, value in self.headers.items()}
        note_id = self.path.rsplit("/", 1)[1] if "/notes/" in self.path else ""
        length = int(headers.get("content-length", 0))
        with bad.lock:
            if note_id and note_id not in bad.heard_of:
                bad.heard_of.add(note_id)
                bad.on_new_note()
            fault = self._draw(note_id) if bad.chance.random() < bad.likely else ""
            cut_at = bad.chance.randrange(length) if fault == "reset" and length else 0
        body = self.rfile.read(cut_at if fault == "reset" else length)
        if not bad.goes_on.wait(30):
            fault = "reset"
        with bad.lock:
            self._answer(fault, note_id, headers, body, length)

    def _draw(self, note_id: str) -> str:
        """A fault that this request can meet."""
        note = self.bad.model.notes.get(note_id)
        unfit: set[str] = set()
        faults: tuple[str, ...] = FAULTS + 3 * OF_A_PATCH  # most of them leave the two ends of another opinion
        if self.command != "PATCH":
            faults, unfit = FAULTS, {"taken", "413", "dropped", "wrong digest"}
        if note is not None:
            unfit.add("taken")  # a server that knew better: that would be against the protocol
        if note is None or note.complete:
            unfit.add("dropped")
        return self.bad.chance.choice([fault for fault in faults if fault not in unfit])

    def _answer(self, fault: str, note_id: str, headers: dict[str, str], body: bytes, length: int) -> None:
        model = self.bad.model
        if fault:
            self.bad.faults[fault] += 1
        if fault == "taken":
            model.taken.add(note_id)
        if fault == "dropped":
            model.notes.pop(note_id, None)
            return self.answer(422, {}, b"{}")
        if fault in ("500", "503", "507", "401", "413"):
            return self.answer(int(fault), {}, b'{"detail": "a fault of the simulation"}')
        if fault == "redirect":
            return self.answer(307, {"location": "https://127.0.0.1/"}, b"")
        if fault == "garbage":
            return self._raw(bytes(self.bad.chance.randrange(256) for _ in range(300)) + b"\r\n\r\n")
        if fault == "too long":
            return self._raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000)
        if fault == "no length":
            return self._raw(b"HTTP/1.1 200 OK\r\n\r\n{}")
        if fault == "reset" and not length:
            return self._raw(b"")
        if self.command == "GET" and "/updates/" in self.path:
            return self._update(self.path.rsplit("/", 1)[1])
        if self.command == "POST" and len(body) == length:
            self.bad.mpy = json.loads(body)["mpy"]
        status, answered, content = model.answer(
            self.command, self.path, headers, body, time.time_ns() // 1_000_000, whole=len(body) == length
        )
        if fault in ("reset", "lost answer"):
            return self._raw(b"")
        if fault == "wrong digest" and status == 200:
            content = content.replace(b'"sha256": "', b'"sha256": "0')
        if fault == "truncated" and status == 200:
            return self._raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content[:-9])
        return self.answer(status, answered, content)

    def _update(self, last: str) -> None:
        by_digest = {hashlib.sha256(content).hexdigest(): (path, content) for path, content in self.bad.files}
        if last == self.bad.model.update:
            listed = [[path, len(content), sha256] for sha256, (path, content) in by_digest.items()]
            told = {"version": last, "app": "pendant", "mpy": self.bad.mpy, "files": listed}
            manifest = json.dumps(told).encode()
            code = hmac.new(hashlib.sha256(TOKEN.encode()).digest(), manifest, "sha256").hexdigest()
            return self.answer(200, {"Offbeat-HMAC": code}, manifest)
        path, content = by_digest[last]
        if path == self.bad.files[-1][0]:
            return self.answer(404, {}, b"{}")
        self.bad.faults["update"] += 1
        return self.answer(200, {}, content)

    def _raw(self, data: bytes) -> None:
        self.wfile.write(data)
        self.close_connection = True


def make_certificate(
    folder: Path, name: str = "offbeat", days_before: float = 1, days_after: float = 30
) -> tuple[Path, Path, bytes]:
    """(certificate, key, certificate in DER) as a server's, self-signed, P-256. Valid since and for so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=days_before))
        .not_valid_after(now + datetime.timedelta(days=days_after))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "certificate.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret, made.public_bytes(serialization.Encoding.DER)


def _meta_id(note: bytes) -> str | None:
    """The id that was drawn at the recording, from a note's file; None where it holds no sound (docs/protocol.md)."""
    if len(note) < 80 or note[:4] != b"RIFF":
        return None
    n = struct.unpack("<I", note[68:72])[0]
    if len(note) < 80 + n + 256:
        return None
    return str(json.loads(note[72 : 72 + n])["id"])


class Sequence:
    """One board, one server, one seed."""

    def __init__(self, folder: Path, seed: int, firmware: str) -> None:
        self._seed = seed
        self._chance = random.Random(seed)
        self._fingers = random.Random(seed + 2)
        self._truth: dict[str, bytes] = {}  # id drawn at the recording → the note, as the flash had it first
        self._troubles: list[str] = []
        self._ledger: dict[str, Any] = dict.fromkeys(COUNTS, 0)
        self._read_to = 0  # of the console, characters
        self._recorded = self._stored = 0  # since the power came on
        self._said: list[tuple[float, int]] = []  # the same: holds, in seconds, and when they ended
        self._heard: list[float] = []  # and what was recorded
        self._started_us = 0
        self._holding = False
        self._server = Server(folder, random.Random(seed + 1), self._look)
        self._sound = folder / "sound.wav"
        noise = np.random.default_rng(seed).integers(-9000, 9000, 16000 * 8).astype("<i2")
        with wave.open(str(self._sound), "wb") as file:
            file.setparams((1, 2, 16000, len(noise), "NONE", ""))
            file.writeframes(noise.tobytes())
        config = {
            "app": "pendant", "device": "p7", "token": TOKEN,
            "server": {"host": "127.0.0.1", "port": self._server.port},
            "wifi": [{"ssid": "home", "password": "secret-password"}],
        }  # fmt: skip
        self._board = Board(
            folder, board=json.loads(BOARD.read_text()), config=config, files={"server.der": self._server.der},
            seed=seed, firmware=watched(Path(firmware), folder / "firmware"), heap_kb=6144,
        )  # fmt: skip
        self._reader = FlashReader(folder / "flash.img")

    def __enter__(self) -> Sequence:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()
        self._server.close()
        self._reader.close()

    def play(self) -> dict[str, Any]:
        try:
            self._server.likely = self._chance.choice((0.0, 0.3, 0.6))
            self._start()
            self._board.run_until(lambda: "ready:" in self._board.console, timeout_s=10)  # the flash was blank
            for _ in range(self._chance.randint(4, 8)):
                self._step()
            self._end()
        except (BoardError, TimeoutError, AssertionError) as error:
            self._trouble(f"{type(error).__name__}: {error}")
        return self._ledger | {"faults": dict(self._server.faults), "troubles": self._troubles}

    def _trouble(self, what: str) -> None:
        self._troubles.append(f"sequence {self._seed}: {what}"[-1500:])

    # What is done

    def _start(self) -> None:
        self._board.start()
        self._recorded = self._stored = 0
        self._said, self._heard, self._started_us = [], [], self._board.now_us

    def _step(self) -> None:
        chance, board = self._chance, self._board
        kind = chance.choice(KINDS)
        if kind == "hold":
            self._hold(chance.choice((0.5, 1.0, 2.0, 5.0)) + chance.random())
        elif kind == "hands-free":
            for gap_s in (0.2, 1.0 + 2 * chance.random(), 0.3):
                board.press(self._bounces())
                board.run(0.15)
                board.release()
                board.run(gap_s)
        elif kind == "tap":
            board.press(self._bounces())
            board.run(0.15)
            board.release()
        elif kind == "outage":
            board.wifi(False)
            board.run(chance.random() * 20)
            if chance.random() < 0.5:
                self._hold(0.6)
            board.wifi(True)
        elif kind == "hang":
            self._server.faults["hang"] += 1
            self._server.goes_on.clear()
            board.server_hangs(True)
            if chance.random() < 0.5:
                self._hold(1.0)
            board.run(chance.choice((3, 35)))  # an answer may take 30 s
            self._server.goes_on.set()
            board.server_hangs(False)
        elif kind == "cut":
            if chance.random() < 0.7:
                self._hold(0.5 + 3 * chance.random(), may_cut=True)
            if board.is_on or board.is_asleep:
                board.run(chance.random() ** 2 * 3)
                self._cut()
        board.run(APART_S + chance.random() ** 3 * 15)
        self._look()

    def _bounces(self) -> int:
        return self._fingers.randrange(MOST_BOUNCES)

    def _hold(self, seconds: float, may_cut: bool = False) -> None:
        self._board.run(max(0.0, START_S - (self._board.now_us - self._started_us) / 1e6))
        self._board.speak(self._sound)
        self._board.press(self._bounces())
        if may_cut and self._chance.random() < 0.2:
            self._board.run(seconds / 2)
            self._cut()
            return
        self._board.run(seconds)
        self._board.release()
        if seconds >= SURELY_S:
            self._said.append((seconds, self._board.now_us))

    def _cut(self) -> None:
        """The power goes, and comes back. What the flash then has is what must arrive."""
        self._board.cut_power()
        self._server.faults["cut"] += 1
        self._board.touch(self._board.board["pins"]["button"], 1)
        self._look()
        self._compare()
        pending = self._recorded - self._stored
        for name, note in self._reader.notes().items():
            note_id = _meta_id(note)
            if note_id is None or note_id in self._truth or name.endswith(".bad"):
                continue
            self._truth[note_id] = note  # it was being stored, or was and could not say so any more
            pending -= 1
            if name == "storing":
                self._ledger["marked"] += 1
        if pending < 0:
            self._trouble("there are more notes than recordings")
        self._ledger["lost_to_cut"] += pending
        self._start()

    def _end(self) -> None:
        """The faults end; all that waits must arrive."""
        board = self._board
        self._server.likely = 0.0
        board.run(8)  # what was recorded last is stored
        board.press()
        board.run(0.15)
        board.release()
        try:
            board.run_until(self._all_arrived, timeout_s=SETTLE_S, step_s=2.0)
            board.run(2)
        except TimeoutError as error:
            self._trouble(f"not all has arrived: {error}")
        board.cut_power()
        self._look()
        self._compare()
        self._count()

    def _all_arrived(self) -> bool:
        self._look()
        arrived = {_meta_id(note) for note in self._server.model.confirmed().values()}
        return set(self._truth) <= arrived and self._recorded == self._stored

    # What is seen

    def _look(self) -> None:
        """Read the console on, and the flash: each note has to stay what it was when it was seen first."""
        console = self._board.console[self._read_to :]
        console = console[: console.rfind("\n") + 1]
        self._read_to += len(console)
        if FLASHED in console:
            self._trouble("the flash was written while recording")
        recorded = re.findall(r"^recorded (\d+) ms", console, re.MULTILINE)
        self._heard += [int(ms) / 1000 for ms in recorded]
        self._recorded += len(recorded)
        self._ledger["recorded"] += len(recorded)
        on_flash = self._reader.notes()
        for name, note in on_flash.items():
            note_id = _meta_id(note)
            if note_id is None or not name.endswith(".wav"):
                continue
            if self._truth.get(note_id, note) != note:
                self._ledger["damaged"] += 1
                self._trouble(f"{note_id} has changed on the flash")
        stored = re.findall(r"^stored (p7-[0-9a-f]{16})$", console, re.MULTILINE)
        self._stored += len(stored)
        on_flash_ids = {_meta_id(note): note for name, note in on_flash.items() if name.endswith(".wav")}
        for note_id in stored:
            if note_id in on_flash_ids:
                self._truth.setdefault(note_id, on_flash_ids[note_id])
            elif note_id not in self._truth:
                self._ledger["lost"] += 1
                self._trouble(f"{note_id} was stored and is not there")

    def _compare(self) -> None:
        """Each hold since the power came on has to be among what was recorded, in their order and about as long; or
        longer, where it ended a recording that two taps had begun.
        """
        heard = iter(self._heard)
        for seconds, ended_us in self._said:
            if self._board.now_us - ended_us < 1_000_000:
                break  # the cut came before it could say so
            self._ledger["holds"] += 1
            if not any(duration_s > seconds - BLOCKED_S for duration_s in heard):
                self._ledger["unheard"] += 1
                self._trouble(f"of a hold of {seconds:.2f} s there is no recording: {self._heard}")
                break

    def _count(self) -> None:
        ledger = self._ledger
        seen: dict[str, bytes] = {}
        for server_id, note in self._server.model.confirmed().items():
            note_id = _meta_id(note)
            if note_id is None or note_id not in self._truth:
                self._trouble(f"nobody knows {server_id}")
            elif note_id in seen:
                ledger["doubled"] += 1
            else:
                seen[note_id] = note
                ledger["damaged"] += note != self._truth[note_id]
        waiting = {_meta_id(note) for name, note in self._reader.notes().items() if name.endswith(".wav")}
        ledger["delivered"] += len(seen)
        ledger["waiting"] += len(waiting & set(self._truth) - set(seen))
        ledger["lost"] += len(set(self._truth) - set(seen) - waiting)
        ledger["violations"] += len(self._server.model.violations)
        for violation in self._server.model.violations:
            self._trouble(violation)
