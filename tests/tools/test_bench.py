"""The figures that `make bench` prints, without measuring, and the model that the server's are measured with."""

import json
from pathlib import Path

import bench
import bench_server
import debian
import numpy as np
import pytest
from demo_model import tokens
from faster_whisper import WhisperModel


def test_every_figure_is_printed_under_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(bench.FIGURES) == {"codec", "press", "server"}

    def missing() -> list[str]:
        raise debian.Unavailable("get it")

    monkeypatch.setitem(bench.FIGURES, "codec", lambda: ["one", "two"])
    monkeypatch.setitem(bench.FIGURES, "press", lambda: ["fast"])
    monkeypatch.setattr(bench_server, "server", lambda: ["three"])
    assert bench.main([]) == 0
    assert capsys.readouterr().out == "codec: one\ncodec: two\npress: fast\nserver: three\n"
    assert bench.main(["server"]) == 0
    assert capsys.readouterr().out == "server: three\n"
    assert bench.main(["speed"]) == 2
    assert "no figure speed" in capsys.readouterr().err
    monkeypatch.setitem(bench.FIGURES, "codec", missing)
    assert bench.main(["codec"]) == 1
    assert "codec: get it" in capsys.readouterr().err


def test_the_server_s_figures_stand_beside_their_limits() -> None:
    lines = bench_server.report(81.4, 92.6, 0.974, 700, None)
    assert "81 ms" in lines[0] and "(limit 150)" in lines[0] and "93 ms (limit 150)" in lines[1]
    assert "100 notes: 0.97" in lines[2] and "(limit 0.95)" in lines[2]
    assert "make bench" in lines[-1]
    beside = bench_server.report(81.4, 92.6, 0.974, 700, (20.2, 0.911, 400))
    assert beside[:4] == lines[:4] and len(beside) == 7
    assert "20 ms" in beside[4] and "0.91" in beside[5]


def test_a_slow_moment_of_the_machine_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench_server.added_ms([1.1, 9.1, 1.2], [1.0, 9.0, 0.2]) == pytest.approx(100)
    monkeypatch.setattr(bench_server, "BACKLOG_NOTES", 5)
    done: list[str] = []
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(bench_server.time, "monotonic", lambda: next(clock))

    def backlog_s() -> float:
        done.append("backlog")
        return 10.0

    assert bench_server.throughput(lambda: done.append("bare"), backlog_s) == pytest.approx(0.5)
    assert done == ["bare"] * 2 + ["backlog"] + ["bare"] * 3


def test_the_random_model_has_the_vocabulary_of_base_and_says_as_much_whatever_it_hears(tmp_path: Path) -> None:
    folder = bench_server.random_model(tmp_path / "model", width=16, heads=1, layers=1)
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert len(vocabulary) == len(set(vocabulary)) == 51_865
    model = WhisperModel(str(folder), local_files_only=True)
    for index in (0, 2000, 40_000):
        assert model.hf_tokenizer.id_to_token(index) == vocabulary[index]
    for special in tokens.SPECIAL:
        assert vocabulary[model.hf_tokenizer.token_to_id(special)] == special
    assert model.hf_tokenizer.encode(" remind me").tokens == ["Ġremind", "Ġme"]
    chance = np.random.default_rng(0)
    said = []
    for sound in (np.zeros(48_000), chance.normal(0, 0.1, 48_000)):
        segments, _ = model.transcribe(
            sound.astype(np.float32), language="en", temperature=0.0, max_new_tokens=bench_server.NEW_TOKENS
        )
        said.append([segment.tokens for segment in segments])
    # A timestamp, as Whisper must begin with, and words to the limit.
    assert said[0] == said[1] and len(said[0]) == 1 and len(said[0][0]) == bench_server.NEW_TOKENS // 2
