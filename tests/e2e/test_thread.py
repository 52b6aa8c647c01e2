"""From the microphone to the webhook, with everything that may go wrong on the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_model.evaluate import word_errors
from demo_model.speech import held_out_utterances, speak
from relay import Relay
from server_process import ServerProcess, WebhookReceiver, until
from sim.board import Board, duration_s

SPEECH = Path(__file__).parents[1] / "speech"
SENTENCE = "remind me to call mum tomorrow"
SPOKEN = SPEECH / "remind-me-to-call-mum-tomorrow.wav"
#: A webhook comes from the host, and the board's time stands still meanwhile: so in the host's seconds.
PATIENCE_S = 60


def say(board: Board, sound: Path) -> None:
    """Press, speak, let go."""
    board.press()
    board.run(0.4)
    board.speak(sound)
    board.run(duration_s(sound) + 0.3)
    board.release()
    board.speak(None)


def write_wav(path: Path, samples: Any) -> None:
    """int16, 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())


def notes_of(receiver: WebhookReceiver, device: str) -> list[Any]:
    return [got for got in receiver.received if got.json["data"]["device"] == device]


def deliver(board: Board, receiver: WebhookReceiver, device: str, count: int = 1, timeout_s: float = 120) -> list[Any]:
    """Let the board's time pass until it has delivered `count` notes in all; then wait for the webhooks."""
    board.run_until(lambda: board.console.count("delivered ") >= count, timeout_s)
    return until(lambda: len(notes_of(receiver, device)) >= count and notes_of(receiver, device), PATIENCE_S, device)


def test_a_sentence_comes_out_of_the_webhook(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board]
) -> None:
    board = make_pendant("speaker")
    board.start()
    board.run(5)  # past the first check-in: of a press during its handshake the note has all that the driver kept
    say(board, SPOKEN)
    (got,) = deliver(board, receiver, "speaker")
    assert got.json["data"]["text"] == SENTENCE
    assert abs(got.json["data"]["duration_s"] - duration_s(SPOKEN) - 0.7) < 0.25
    assert board.console.count("lost 0 samples") == 1


def test_silence_gives_a_note_with_an_empty_text(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board], tmp_path: Path
) -> None:
    silence = tmp_path / "silence.wav"
    write_wav(silence, np.zeros(3 * 16000, np.int16))
    board = make_pendant("silent")
    board.start()
    board.run(3)
    say(board, silence)
    (got,) = deliver(board, receiver, "silent")
    assert got.json["data"]["text"] == ""


def test_cut_at_every_4_kb_is_one_note_and_one_delivery(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board]
) -> None:
    with Relay(server.device_port) as relay:
        board = make_pendant("patient", port=relay.port)
        board.start()
        board.run(3)
        relay.cut_after_bytes = 4096
        say(board, SPOKEN)
        (got,) = deliver(board, receiver, "patient", timeout_s=3600)
    assert got.json["data"]["text"] == SENTENCE
    assert relay.connections >= 6  # 22 kB, less than 4 of them a connection
    assert listed(server, "patient") == [got.json["data"]["id"]]


def listed(server: ServerProcess, device: str) -> list[str]:
    with server.sign_in() as session:
        notes = session.get(f"{server.url}/api/notes", timeout=10).json()
    return [note["id"] for note in notes["notes"] if note["device"] == device]


@pytest.mark.parametrize("kilobytes", [6, 12, 18])
def test_power_cut_in_the_middle_of_an_upload_delivers_the_note_once(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board], kilobytes: int
) -> None:
    device = f"cut{kilobytes}"
    with Relay(server.device_port) as relay:
        board = make_pendant(device, port=relay.port)
        board.start()
        board.run(3)
        relay.cut_after_bytes = kilobytes * 1000
        say(board, SPOKEN)
        board.run_until(lambda: relay.cuts, 60, step_s=0.01)
        board.cut_power()
        (stored,) = server.data.rglob(f"{device}-*")
        until(lambda: 1000 <= stored.stat().st_size <= kilobytes * 1000, 10, "the part that came")
        assert notes_of(receiver, device) == []
        relay.cut_after_bytes = None
        board.run(5)
        board.start()
        (got,) = deliver(board, receiver, device)
    assert got.json["data"]["text"] == SENTENCE
    assert listed(server, device) == [got.json["data"]["id"]]


def test_notes_wait_while_the_network_and_the_server_are_away(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board]
) -> None:
    board = make_pendant("wanderer")
    board.start()
    board.run(3)
    board.wifi(False)
    for sound in sorted(SPEECH.glob("*.wav")):
        say(board, sound)
        board.run(5)
    assert notes_of(receiver, "wanderer") == []
    board.wifi(True)
    count = len(list(SPEECH.glob("*.wav")))
    got = deliver(board, receiver, "wanderer", count, timeout_s=900)
    expected = {sound.stem.replace("-", " ") for sound in SPEECH.glob("*.wav")}
    assert {each.json["data"]["text"] for each in got} == expected
    assert len({each.headers["webhook-id"] for each in got}) == count


def test_forty_sentences_never_heard_in_voices_never_heard(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board], tmp_path: Path
) -> None:
    """At most one wrong word in twenty, through the microphone, the codec, the upload and the webhook."""
    board = make_pendant("reader")
    board.start()
    board.run(3)
    utterances = held_out_utterances(40, seed=2027)
    for utterance in utterances:
        sound = tmp_path / "spoken.wav"
        write_wav(sound, speak(utterance).samples)
        say(board, sound)
        board.run(1)
    got = deliver(board, receiver, "reader", 40, timeout_s=600)
    heard = {each.json["data"]["id"]: each.json["data"]["text"] for each in got}
    in_order = re.findall(r"^stored (\S+)$", board.console, re.MULTILINE)
    pairs = [(utterance.text, heard[note]) for utterance, note in zip(utterances, in_order, strict=True)]
    wrong = sum(word_errors(said, text) for said, text in pairs)
    words = sum(len(said.split()) for said, _ in pairs)
    print(f"{wrong} of {words} words wrong")
    assert wrong * 20 <= words, [pair for pair in pairs if pair[0] != pair[1]]


def test_the_demonstration_ends_by_itself_and_says_what_was_spoken() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "tools" / "demo.py"), "--once"],
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(root / "server")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["data"]["text"] == SENTENCE
