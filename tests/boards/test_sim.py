"""The simulated board against what the chip's documentation says, with a few lines of MicroPython as its firmware."""

from __future__ import annotations

import socket
import ssl
import threading
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sim.board import Board, BoardError, Edge
from sim.chip.costs import COSTS

WIFI_UP = """
    import network, time
    wlan = network.WLAN(network.STA_IF)
    wlan.active(True)
    wlan.connect("home", "secret-password")
    began = time.ticks_ms()
    while not wlan.isconnected():
        time.sleep_ms(10)
    print("wifi", time.ticks_diff(time.ticks_ms(), began))
"""


def lines(board: Board) -> list[str]:
    return board.console.splitlines()


def ended(board: Board, seconds: float = 60) -> list[str]:
    """Run a snippet that ends; what it printed."""
    with pytest.raises(BoardError, match=r"main\.py ended;"):
        board.run(seconds)
    return lines(board)


def test_time_stands_still_while_code_runs_and_jumps_while_it_sleeps(snippet: Any) -> None:
    board = snippet(
        """
        import time
        t = time.ticks_us()
        n = sum(range(100000))
        print(time.ticks_diff(time.ticks_us(), t))
        t = time.ticks_ms()
        time.sleep(3600)
        print(time.ticks_diff(time.ticks_ms(), t))
        """
    )
    board.start()
    assert ended(board, 4000) == ["0", "3600000"]


@pytest.mark.parametrize("bits", [64, 32])
def test_asyncio_sleeps_in_simulated_time_for_weeks(snippet: Any, bits: int) -> None:
    board = snippet(
        """
        import asyncio, time
        async def long():
            await asyncio.sleep(86400 * 2)
        async def main():
            for day in range(15):
                begun = time.time()
                task = asyncio.create_task(long())
                await asyncio.sleep(86400)
                task.cancel()
                try:
                    await task
                    print("not cancelled")
                except asyncio.CancelledError:
                    pass
                late = time.time() - begun - 86400
                assert 0 <= late <= 1, late
            print("done")
        asyncio.run(main())
        """,
        bits=bits,
    )
    board.start()
    assert ended(board, 86400 * 16) == ["done"]


@pytest.mark.parametrize("mode", ["jump", "real"])
def test_random_bytes_repeat_with_the_seed_in_jump_mode_only(snippet: Any, mode: str) -> None:
    """And not within a run, nor after a reset: notes are named by them."""
    drawn = []
    for _ in range(2):
        board = snippet(
            """
            import machine, os
            print("drawn", os.urandom(8).hex(), os.urandom(40).hex())
            if machine.reset_cause() == machine.PWRON_RESET:
                machine.reset()
            """,
            mode=mode,
        )
        board.start()
        drawn.append([word for line in ended(board, 10) if line.startswith("drawn") for word in line.split()[1:]])
    assert [len(word) for word in drawn[0]] == [16, 80, 16, 80]
    assert len({word[:16] for word in drawn[0]}) == 4
    assert (drawn[0] == drawn[1]) == (mode == "jump")


def test_presses_arrive_at_their_time_and_wake_asyncio(snippet: Any) -> None:
    board = snippet(
        """
        import asyncio, machine, time
        flag = asyncio.ThreadSafeFlag()
        pin = machine.Pin(1, machine.Pin.IN, machine.Pin.PULL_UP)
        pin.irq(lambda pin: flag.set(), machine.Pin.IRQ_FALLING | machine.Pin.IRQ_RISING)
        async def main():
            while True:
                await flag.wait()
                print(pin.value(), time.ticks_ms())
        asyncio.run(main())
        """
    )
    board.start()
    board.run(1.5)
    board.press()
    board.run(0.25)
    board.release()
    board.run(1)
    assert lines(board) == ["0 1500", "1 1750"]


def test_a_blocking_call_holds_python_but_not_the_pulse(snippet: Any) -> None:
    board = snippet(
        """
        import esp32, machine, time
        pin = machine.Pin(1, machine.Pin.IN, machine.Pin.PULL_UP)
        pin.irq(lambda pin: print("irq", time.ticks_ms()))
        rmt = esp32.RMT(0, pin=machine.Pin(3), clock_div=80)
        rmt.write_pulses((30000, 20000, 31000, 100), (0, 0, 1, 0))
        partition = esp32.Partition.find(esp32.Partition.TYPE_DATA, label="ticks")[0]
        for block in range(4):
            partition.ioctl(6, block)  # 45 ms each
        print("erased", time.ticks_ms())
        """
    )
    board.start()
    board.run(0.42)
    board.press()
    assert ended(board) == ["irq 445", "erased 580"]
    assert board.edges[:2] == [Edge(3, 1, 450_000), Edge(3, 0, 481_000)]


def test_handlers_that_find_no_room_are_dropped(snippet: Any) -> None:
    """By the ninth edge of one blocking call; after it there is room again."""
    board = snippet(
        """
        import esp32, machine, time
        pin = machine.Pin(1, machine.Pin.IN, machine.Pin.PULL_UP)
        pin.irq(lambda pin: print("irq", pin.value()), machine.Pin.IRQ_FALLING | machine.Pin.IRQ_RISING)
        partition = esp32.Partition.find(esp32.Partition.TYPE_DATA, label="ticks")[0]
        partition.ioctl(6, 0)  # 45 ms
        print("erased")
        time.sleep_ms(100)
        """
    )
    board.start()
    board.run(0.41)
    for _ in range(6):
        board.press()
        board.release()
    board.run(0.09)
    board.press()
    assert ended(board) == ["irq 1"] * 8 + ["erased", "irq 0"]


@pytest.mark.parametrize("bits", [64, 32])
def test_ticks_have_the_chips_period(snippet: Any, bits: int) -> None:
    board = snippet(
        """
        import time
        first = time.ticks_ms()
        last = (1 << 30) - 1
        print(time.ticks_add(0, -1) == last, time.ticks_add(last, 3), time.ticks_diff(1, last))
        time.sleep((1 << 30) // 1000)
        time.sleep_ms(1000)
        print(time.ticks_ms() < 2000, time.ticks_diff(time.ticks_ms(), first))
        """,
        bits=bits,
    )
    board.start()
    shown = ended(board, 1_100_000)
    assert shown[0] == "True 2 2"
    assert shown[1].startswith("True ")


def test_rmt_refuses_what_the_chip_cannot_do(snippet: Any) -> None:
    board = snippet(
        """
        import esp32, machine
        rmt = esp32.RMT(0, pin=machine.Pin(3), clock_div=80)
        try:
            rmt.write_pulses((32768,), (1,))
        except ValueError as error:
            print(error)
        """
    )
    board.start()
    assert ended(board) == ["an RMT phase has 1 to 32767 ticks"]


def test_power_cut_ends_a_pulse_and_keeps_what_was_flushed(snippet: Any) -> None:
    board = snippet(
        """
        import machine, os, time
        print(sorted(os.listdir("/")), machine.reset_cause())
        machine.Pin(5, machine.Pin.OUT, value=1)
        with open("/kept", "w") as file:
            file.write("kept")
        lost = open("/lost", "w")
        lost.write("lost")
        time.sleep(100)
        """
    )
    board.start()
    board.run(5)
    assert board.level(5) == 1
    board.cut_power()
    assert board.level(5) == 0
    board.run(1)
    board.start()
    board.run(5)
    before, after = lines(board)
    assert "kept" not in before
    assert "kept" in after and "lost" in after and after.endswith(" 1")
    board.cut_power()


def test_power_cut_at_many_instants_of_a_write_leaves_a_file_system(snippet: Any) -> None:
    board = snippet(
        """
        import os
        if "a" in os.listdir("/"):
            with open("/a", "rb") as file:
                data = file.read()
            print("found", len(data), data == bytes(len(data)))
        while True:
            with open("/new", "wb") as file:
                for _ in range(5):
                    file.write(bytes(3000))
            os.rename("/new", "/a")
        """
    )
    found = 0
    for instant in range(12):
        board.start()
        board.run(0.7 + instant * 0.0371)
        board.cut_power()
    for line in lines(board):
        assert line == "found 15000 True", line
        found += 1
    assert found >= 8


def test_partition_is_nor_flash(snippet: Any) -> None:
    board = snippet(
        """
        import esp32, time
        p = esp32.Partition.find(esp32.Partition.TYPE_DATA, label="ticks")[0]
        print(p.ioctl(4, 0), p.ioctl(5, 0), p.info()[4])
        b = bytearray(4)
        p.readblocks(0, b); print(b)
        p.writeblocks(0, b"\\xf0\\x0f\\xff\\x00", 8)
        p.writeblocks(0, b"\\x33\\x33\\x33\\x33", 8)
        p.readblocks(0, b, 8); print(b)
        began = time.ticks_us()
        p.ioctl(6, 0)
        print(time.ticks_diff(time.ticks_us(), began))
        p.readblocks(0, b, 8); print(b)
        """
    )
    board.start()
    assert ended(board) == [
        "16 4096 ticks",
        r"bytearray(b'\xff\xff\xff\xff')",
        r"bytearray(b'0\x033\x00')",
        "45000",
        r"bytearray(b'\xff\xff\xff\xff')",
    ]


def test_nvs_keeps_what_was_committed(snippet: Any) -> None:
    board = snippet(
        """
        import esp32, time
        nvs = esp32.NVS("clock")
        try:
            print(nvs.get_i32("position"))
        except OSError as error:
            print("blank", error.args[0])
        nvs.set_i32("position", -7)
        nvs.commit()
        nvs.set_i32("position", 8)
        time.sleep(100)
        """
    )
    board.start()
    board.run(1)
    board.cut_power()
    board.start()
    board.run(1)
    assert lines(board) == ["blank -4354", "-7"]


def test_watchdog_resets_a_firmware_that_hangs(snippet: Any) -> None:
    board = snippet(
        """
        import machine, time
        print(machine.reset_cause())
        machine.WDT(timeout=30_000)  # the next one takes its place
        watchdog = machine.WDT(timeout=2000)
        for _ in range(5):
            time.sleep(1)
            watchdog.feed()
        time.sleep(10)
        """
    )
    board.start()
    board.run(8)
    assert lines(board) == ["1", "3"]
    assert board.exits[0]["t"] == 400_000 + 7_000_000


def test_feeding_the_watchdog_leaves_the_heap_in_one_piece(snippet: Any) -> None:
    """A note once could not be stored, with 1 MB free: the scraps of 300 feeds lay all over it."""
    board = snippet(
        """
        import gc, machine, time
        gc.threshold(-1)
        watchdog = machine.WDT(timeout=30_000)
        timer = machine.Timer(0, period=50, callback=lambda timer: None)  # always has the next event
        time.sleep(1)
        gc.collect()
        free_bytes = gc.mem_free()
        for _ in range(200):
            watchdog.feed()
            time.sleep_ms(100)
            for number in range(100):
                [number]  # garbage
        gc.collect()
        bytearray(free_bytes * 3 // 4)
        print("whole")
        time.sleep(10)
        """,
        heap_kb=512,
    )
    board.start()
    board.run(22)
    assert lines(board) == ["whole"]


def test_deep_sleep_keeps_rtc_memory_and_the_button_wakes(snippet: Any) -> None:
    board = snippet(
        """
        import esp32, machine, time
        rtc = machine.RTC()
        print(machine.reset_cause(), machine.wake_reason(), rtc.memory(), time.time() >= 0)
        rtc.memory(rtc.memory() + b"x")
        button = machine.Pin(1, machine.Pin.IN, machine.Pin.PULL_UP)
        esp32.wake_on_ext1((button,), esp32.WAKEUP_ALL_LOW)
        machine.deepsleep(60_000)
        """
    )
    board.start()
    board.run(10)
    assert board.is_asleep
    board.press()
    board.release()
    board.run(70)
    board.cut_power()
    board.start()
    board.run(1)
    assert lines(board) == [
        "1 0 b'' True",
        "4 3 b'x' True",
        "4 4 b'xx' True",
        "1 0 b'' True",
    ]


@pytest.mark.parametrize("crystal_ppm", [0, 100])
def test_in_deep_sleep_the_clock_is_off_by_percents(snippet: Any, crystal_ppm: int) -> None:
    """Woken by the button after an hour, and by the timer after an hour of the chip's."""
    board = snippet(
        """
        import esp32, machine, time
        print(machine.wake_reason(), time.time())
        esp32.wake_on_ext0(machine.Pin(1, machine.Pin.IN, machine.Pin.PULL_UP), 0)
        machine.deepsleep(3_600_000 if machine.wake_reason() == machine.EXT0_WAKE else 7_200_000)
        """,
        rtc_ppm=30_000,
        crystal_ppm=crystal_ppm,
    )
    board.start()
    board.run(3600.4)
    board.press()
    board.release()
    began_us = board.now_us
    board.run(1)
    board.run_until(lambda: len(lines(board)) == 3, timeout_s=3600, step_s=0.5)
    # Of what passes awake, and of a second's fraction, there is less than two.
    assert [int(line.split()[0]) for line in lines(board)] == [0, 2, 4]
    _, first, second = (int(line.split()[1]) for line in lines(board))
    assert abs(first - 3708) <= 2 and abs(second - first - 3600) <= 2
    assert abs((board.now_us - began_us) / 1e6 - 3600 / 1.03) < 2


def test_the_rates_of_sleeps_wander(snippet: Any) -> None:
    board = snippet(
        """
        import machine, time
        print(time.time())
        machine.deepsleep(100_000_000)
        """,
        rtc_ppm=30_000,
        rtc_wander_ppm=5000,
    )
    board.start()
    board.run(900_000)
    # From one sleep's beginning to the next: 0.4 s of booting are between.
    rates = [100_000e6 / (later["t"] - sooner["t"] - 400_000) for sooner, later in pairwise(board.exits)]
    assert len(rates) == 9
    assert all(1.0249 < rate < 1.0351 for rate in rates) and max(rates) - min(rates) > 0.002, rates


def test_light_sleep_ends_by_time_or_button_and_keeps_all(snippet: Any) -> None:
    board = snippet(
        """
        import esp32, machine, time
        esp32.wake_on_ext0(machine.Pin(1, machine.Pin.IN, machine.Pin.PULL_UP), 0)
        for _ in range(2):
            began = time.ticks_ms()
            machine.lightsleep(10_000)
            print(machine.wake_reason(), time.ticks_diff(time.ticks_ms(), began))
        i2s = machine.I2S(0, sck=machine.Pin(7), ws=machine.Pin(8), sd=machine.Pin(9), mode=machine.I2S.RX, bits=32,
                          format=machine.I2S.MONO, rate=16000, ibuf=65536)
        try:
            machine.lightsleep(10)
        except RuntimeError as e:
            print(e)
        i2s.deinit()
        machine.lightsleep(10)
        import network
        network.WLAN(network.STA_IF).active(True)
        machine.lightsleep(10)
        """
    )
    board.start()
    board.run(13.4)  # 0.4 s of booting
    board.press()
    with pytest.raises(BoardError, match="lightsleep with the radio on"):
        board.run(1)
    assert lines(board)[:2] == ["4 10002", "2 3000"]
    assert lines(board)[2].startswith("lightsleep with I2S running")


def test_a_microphone_without_power_gives_nothing_valid(snippet: Any) -> None:
    board = snippet(
        """
        import machine, time
        power = machine.Pin(4, machine.Pin.OUT, value=0)
        i2s = machine.I2S(0, sck=machine.Pin(7), ws=machine.Pin(8), sd=machine.Pin(9), mode=machine.I2S.RX, bits=32,
                          format=machine.I2S.MONO, rate=16000, ibuf=65536)
        buffer = bytearray(1600)  # 25 ms
        for turn in range(40):
            if turn == 20:
                power(1)
            i2s.readinto(buffer)
            print(buffer[-1] == 0)
        """,
        board={"pins": {"button": 1, "microphone_power": 4}},
    )
    board.start()
    valid = ended(board)
    first = valid.index("True")
    assert first * 25 <= 500 + 256 < (first + 1) * 25 and set(valid[first:40]) == {"True"}, valid


def tone(path: Path, seconds: float) -> np.ndarray[Any, Any]:
    samples = np.round(20000 * np.sin(np.arange(int(16000 * seconds)) * 2 * np.pi * 440 / 16000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return samples


MICROPHONE = """
    import machine, time, struct, micropython
    i2s = machine.I2S(0, sck=machine.Pin(7), ws=machine.Pin(8), sd=machine.Pin(9), mode=machine.I2S.RX, bits=32,
                      format=machine.I2S.MONO, rate=16000, ibuf=8 * 1600)
"""


def test_microphone_gives_what_was_spoken(snippet: Any, tmp_path: Path) -> None:
    samples = tone(tmp_path / "tone.wav", 0.2)
    board = snippet(
        MICROPHONE
        + """
    buffer = bytearray(4 * 1600)
    with open("/heard", "wb") as file:
        for n in range(8):
            i2s.readinto(buffer)
            if n >= 5:
                print(struct.unpack_from("<i", buffer, 400)[0], time.ticks_ms())
    """
    )
    board.start()
    board.speak(tmp_path / "tone.wav")
    times = [int(line.split()[1]) for line in ended(board)]
    assert times == [1000, 1100, 1200]  # 400 ms to start, then 100 ms a buffer: nothing was lost
    # The sound began 400 ms before the microphone did: it is over by now, and silence is the offset alone.
    assert {int(line.split()[0]) for line in lines(board)} == {0x00_05_20_00}
    assert len(samples) == 3200


def test_microphone_loses_what_nobody_reads(snippet: Any) -> None:
    board = snippet(
        MICROPHONE
        + """
    buffer = bytearray(4 * 1600)
    i2s.readinto(buffer)
    time.sleep_ms(1000)
    for _ in range(3):
        i2s.readinto(buffer)
        print(time.ticks_ms())
    """
    )
    board.start()
    # After 1.1 s the ring holds the last 100 ms: one buffer at once, the next ones as they come.
    assert ended(board) == ["1500", "1600", "1700"]


def test_microphone_through_interrupts_and_its_start_up(snippet: Any, tmp_path: Path) -> None:
    tone(tmp_path / "tone.wav", 3)
    board = snippet(
        MICROPHONE
        + """
    buffers = [bytearray(4 * 1600), bytearray(4 * 1600)]
    count = [0]
    def filled(i2s):
        done = buffers[count[0] & 1]
        count[0] += 1
        i2s.readinto(buffers[count[0] & 1])
        words = struct.unpack("<1600i", done)
        print(time.ticks_ms(), max(words) - min(words) > 1 << 28, max(words) == min(words))
    i2s.irq(filled)
    i2s.readinto(buffers[0])
    time.sleep_ms(650)
    i2s.deinit()
    time.sleep(2)
    """,
    )
    board.start()
    board.run(0.3)
    board.speak(tmp_path / "tone.wav")
    assert ended(board) == [
        "500 False True",
        "600 False True",
        "700 True False",
        "800 True False",
        "900 True False",
        "1000 True False",
    ]


def test_wifi_comes_goes_and_comes_back_by_itself(snippet: Any) -> None:
    board = snippet(
        WIFI_UP
        + """
    while True:
        time.sleep_ms(500)
        print(wlan.isconnected(), wlan.status())
    """
    )
    board.start()
    board.run(3)
    board.wifi(False)
    board.run(1)
    board.wifi(True)
    board.run(3)
    seen = lines(board)
    assert seen[0] == "wifi 1600"
    states = [line.split()[0] for line in seen[1:]]
    assert states[0] == "True" and states[-1] == "True" and "False" in states


def test_sntp_from_the_simulator_is_the_true_time(snippet: Any) -> None:
    board = snippet(
        WIFI_UP
        + """
    import socket
    address = socket.getaddrinfo("ntp.sim", 123)[0][-1]
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    began = time.ticks_us()
    s.sendto(b"\\x23" + bytes(39) + b"ORIGINAT", address)
    answer, sender = s.recvfrom(48)
    print(time.ticks_diff(time.ticks_us(), began))
    print(answer[24:32], int.from_bytes(answer[40:44], "big") - 2208988800, sender)
    """,
        start_utc=datetime(2027, 3, 28, 0, 59, 50, tzinfo=UTC),
        costs={"radio_wake_us": 0},
    )
    board.start()
    shown = ended(board)
    assert 10_000 <= int(shown[1]) <= 31_000
    assert shown[2].startswith("b'ORIGINAT'")
    assert int(shown[2].split()[1]) == round(datetime(2027, 3, 28, 0, 59, 52, tzinfo=UTC).timestamp())


ASK = (
    WIFI_UP
    + """
    import socket
    def ask(name, timeout_s=2):
        address = socket.getaddrinfo(name, 123)[0][-1]
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(timeout_s)
        began = time.ticks_us()
        s.sendto(b"\\x23" + bytes(39) + b"ORIGINAT", address)
        try:
            answer = s.recvfrom(48)[0]
        except OSError as error:
            answer = b""
        s.close()
        return answer, time.ticks_diff(time.ticks_us(), began)
"""
)


def test_a_crystal_that_is_off_and_edges_in_true_time(snippet: Any) -> None:
    program = (
        ASK
        + """
    import machine, esp32
    rmt = esp32.RMT(0, pin=machine.Pin(3), clock_div=80)
    for n in range(3):
        print(int.from_bytes(ask("ntp.sim")[0][40:44], "big"), time.ticks_us())
        rmt.write_pulses((30000, 20000, 100), (0, 1, 0))
        time.sleep(900)
    """
    )
    for ppm in (0, 20, -1000):
        board = snippet(program, crystal_ppm=ppm, start_utc=datetime(2027, 3, 28, tzinfo=UTC))
        board.start()
        shown = ended(board, 3000)
        seconds, ticks_us = zip(*(map(int, line.split()) for line in shown[1:]), strict=True)
        rises = [edge.t_us for edge in board.edges if edge.level]
        for n in (0, 1):
            passed_us = (ticks_us[n + 1] - ticks_us[n]) % (1 << 30)
            assert passed_us >= 900_000_000
            assert abs((rises[n + 1] - rises[n]) * (1_000_000 + ppm) / 1e6 - passed_us) <= 3, ppm
        assert abs((seconds[2] - seconds[0]) - (rises[2] - rises[0]) / 1e6) <= 1.1
        assert abs(board.edges[1].t_us - board.edges[0].t_us - 20_000) <= 21
        board.close()


def test_time_servers_behave_as_told(snippet: Any) -> None:
    board = snippet(
        ASK
        + """
    for name in ("ntp.sim", "b.sim", "c.sim", "d.sim", "e.sim", "f.sim"):
        answer, us = ask(name)
        print(name, answer[:2], answer[12:16], answer[24:32], 140_000 <= us <= 150_000)
    try:
        ask("nobody.sim")
    except OSError as error:
        print(error)
    """,
        ntp_delay_ms=(70, 75),
        costs={"radio_wake_us": 0},
    )
    for name, answers in zip("bcdef", ("silence", "garbage", "unsynchronised", "stale", "DENY"), strict=True):
        board.time_server(f"{name}.sim", answers=answers, delay_ms=(20, 21), back_ms=(120, 128))
    with pytest.raises(ValueError, match="four capital letters"):
        board.time_server(answers="nonsense")
    board.start()
    good, silent, garbage, unsynchronised, stale, deny, nobody = ended(board)[1:]
    assert good == r"ntp.sim b'$\x02' b'SIM\x00' b'ORIGINAT' True"
    assert silent == "b.sim b'' b'' b'' False"
    assert not garbage.endswith("b'ORIGINAT' True")
    assert unsynchronised == r"d.sim b'\xe4\x10' b'SIM\x00' b'ORIGINAT' True"
    assert stale == r"e.sim b'$\x02' b'SIM\x00' b'\x00\x00\x00\x00\x00\x00\x00\x00' True"
    assert deny == r"f.sim b'\xe4\x00' b'DENY' b'ORIGINAT' True"
    assert nobody == "-202"


def test_an_idle_radio_is_slow_once(snippet: Any) -> None:
    board = snippet(
        ASK
        + """
    for _ in range(10):
        time.sleep(1)
        print(ask("ntp.sim")[1], ask("ntp.sim")[1])
    """,
        costs={"dns_us": 0},
    )
    board.start()
    pairs = [[int(word) for word in line.split()] for line in ended(board)[1:]]
    assert max(first for first, _ in pairs) > 100_000
    assert max(second for _, second in pairs) <= 31_000


@pytest.mark.parametrize("bits", [64, 32])
def test_a_look_up_in_a_thread_takes_its_time_and_holds_nobody_up(snippet: Any, bits: int) -> None:
    board = snippet(
        WIFI_UP
        + """
    import _thread, asyncio, gc, socket
    found = []
    def look_up(name):
        began = time.ticks_ms()
        try:
            found.append(socket.getaddrinfo(name, 123)[0][-1])
        except OSError as error:
            found.append(error)
        print(name, time.ticks_diff(time.ticks_ms(), began), found[-1])
    async def main():
        _thread.start_new_thread(look_up, ("ntp.sim",))
        _thread.start_new_thread(look_up, ("nobody.sim",))
        latest = 0
        while len(found) < 2:
            began = time.ticks_ms()
            await asyncio.sleep_ms(10)
            gc.collect()
            latest = max(latest, time.ticks_diff(time.ticks_ms(), began))
        print(latest)
        try:
            _thread.start_new_thread(lambda: 1 // 0, ())
        finally:
            print("goes on")
    asyncio.run(main())
    """,
        bits=bits,
    )
    board.start()
    shown = ended(board)[1:]
    name, took_ms, *address = shown[0].split(maxsplit=2)
    assert name == "ntp.sim" and 30 <= int(took_ms) <= 50 and address == ["('192.0.2.123', 123)"]
    name, took_ms, problem = shown[1].split()
    assert name == "nobody.sim" and 5000 <= int(took_ms) <= 5020 and problem == "-202"
    assert int(shown[2]) <= 30
    assert shown[3].startswith("Unhandled exception") and shown[-1] == "goes on"


@contextmanager
def tls_echo(chain: Path, key: Path) -> Iterator[int]:
    """A TLS server on loopback that answers one line with itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        listener.settimeout(0.2)
        while not stop.is_set():
            try:
                plain, _ = listener.accept()
            except TimeoutError:
                continue
            plain.settimeout(5)
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.sendall(secure.recv(100))
            except OSError:
                plain.close()  # the client refused, or fell silent: that is what some tests are about

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join(10)
        listener.close()


TLS_CLIENT = """
    import asyncio, tls, machine
    machine.RTC().datetime(DATE)
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_REQUIRED
    context.load_verify_locations(open("/server.der", "rb").read())
    async def main():
        began = time.ticks_ms()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT, ssl=context, server_hostname="offbeat")
            writer.write(b"hello\\n")
            await writer.drain()
            print(await asyncio.wait_for(reader.readline(), 5))
        except ValueError as error:
            print("refused:", str(error).strip())
        print(time.ticks_diff(time.ticks_ms(), began) >= 800)
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("mode", "name", "days", "expected"),
    [
        ("jump", "offbeat", 0, ["b'hello\\n'", "True"]),
        ("real", "offbeat", 0, ["b'hello\\n'", "True"]),
        ("jump", "offbeat", -9, ["refused: The certificate validity starts in the future", "True"]),
        ("jump", "offbeat", 99, ["refused: The certificate validity has expired", "True"]),
        (
            "jump",
            "other",
            0,
            ["refused: The certificate Common Name (CN) does not match with the expected CN", "True"],
        ),
    ],
)
def test_tls_is_verified_and_its_dates_are_the_boards(
    snippet: Any, certificate: Callable[..., Any], mode: str, name: str, days: int, expected: list[str]
) -> None:
    chain, key, der = certificate(name)
    date = datetime.fromtimestamp(datetime.now(UTC).timestamp() + days * 86400, UTC)
    with tls_echo(chain, key) as port:
        program = WIFI_UP + TLS_CLIENT
        program = program.replace("PORT", str(port)).replace(
            "DATE", str((date.year, date.month, date.day, 0, date.hour, date.minute, date.second, 0))
        )
        board = snippet(program, files={"server.der": der}, mode=mode)
        board.start()
        assert ended(board, 15)[1:] == expected


def test_a_connection_under_which_the_network_goes_falls_silent(snippet: Any, certificate: Callable[..., Any]) -> None:
    chain, key, _ = certificate("offbeat")
    with tls_echo(chain, key) as port:
        program = (
            WIFI_UP
            + """
    import asyncio, socket
    async def main():
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        print("open")
        await asyncio.sleep(2)
        writer.write(b"x")
        try:
            await asyncio.wait_for(reader.read(1), 7)
        except asyncio.TimeoutError:
            print("silent", time.ticks_ms() // 1000)
        try:
            await asyncio.open_connection("127.0.0.1", PORT)
        except OSError as error:
            print(error.args[0])
    asyncio.run(main())
    """
        ).replace("PORT", str(port))
        board = snippet(program)
        board.start()
        board.run_until(lambda: "open" in board.console, 5)
        board.wifi(False)
        assert ended(board, 20)[2:] == ["silent 11", "-202"]


def test_real_mode_keeps_the_hosts_time(snippet: Any) -> None:
    board = snippet(
        """
        import esp32, machine, time
        rmt = esp32.RMT(0, pin=machine.Pin(3), clock_div=80)
        for _ in range(3):
            rmt.write_pulses((30000, 1000), (0, 1))
            time.sleep_ms(200)
        time.sleep(100)
        """,
        mode="real",
    )
    board.start()
    began_us = board.now_us
    board.run(1.5)
    assert 1_500_000 <= board.now_us - began_us < 2_000_000
    rises = [edge.t_us for edge in board.edges if edge.level]
    assert len(rises) == 3
    for first, second in pairwise(rises):
        assert 200_000 <= second - first < 260_000


def test_main_that_fails_is_an_error_with_the_console(snippet: Any) -> None:
    board = snippet("print('before')\nraise ValueError('broken on purpose')\n")
    board.start()
    with pytest.raises(BoardError, match="broken on purpose"):
        board.run(1)


def test_the_documentation_has_each_cost() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    for name, value in COSTS.items():
        shown = f"{value / 1000} a byte" if name.endswith("_ns_per_byte") else f"{value:,}"
        assert f"| `{name}` | {shown} |" in text, name


def test_power_cut_in_the_middle_of_an_erase_or_a_program(snippet: Any) -> None:
    board = snippet(
        """
        import esp32
        p = esp32.Partition.find(esp32.Partition.TYPE_DATA, label="ticks")[0]
        b = bytearray(2)
        p.readblocks(0, b)
        print(b.hex())
        p.ioctl(6, 0)                       # 400 .. 445 ms
        p.writeblocks(0, b"\\x00\\x0f", 0)  # until 445.3 ms
        """
    )
    for cut_s in (0.42, 0.42, 0.42, 0.42, 0.4451, 0.4451, 0.4451, 0.4451, 0.4454):
        board.start()
        try:
            board.run(cut_s)
        except BoardError:
            assert cut_s == 0.4454  # main.py was over
        board.cut_power()
    with pytest.raises(BoardError):
        board.start()
        board.run(1)
    found = [int(line, 16) for line in lines(board)]
    while_erasing, while_programming, after = found[1:5], found[5:9], found[9]
    assert any(value != 0xFFFF for value in while_erasing)
    assert all(value & 0x000F == 0x000F for value in while_programming)
    assert any(value not in (0xFFFF, 0x000F) for value in while_programming)
    assert after == 0x000F
