"""What the application does over days. On CPython alone, which lacks `time.ticks_ms`: it is put in, as a clock."""

import asyncio
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from device import config
from pendant import adpcm

PERIOD = 1 << 30
DAY_MS = 86_400_000


class Twin:
    """Stands for device.twin.Twin."""

    def __init__(self, done: list[str] | None = None) -> None:
        self.check_ins = 0
        self.done = [] if done is None else done
        self.offers: dict[str, Any] = {}

    async def check_in(self) -> dict[str, Any]:
        self.check_ins += 1
        self.done.append("check-in")
        return {"time_ms": 1_800_000_000_000, "revision": 0} | self.offers


class Upload:
    """Stands for pendant.upload.Upload, with nothing that waits."""

    advances = 0

    def __init__(self, done: list[str]) -> None:
        self.done = done

    async def send_all(self) -> tuple[int, int]:
        self.done.append("notes")
        return 0, 0

    def try_again(self) -> None:
        pass


class Spool:
    def load(self) -> bool:
        return True

    def may_wait(self) -> bool:
        return False

    def free_bytes(self) -> int:
        return 1_000_000


class Wifi:
    async def connect(self, timeout_s: int) -> bool:
        return True


class Update:
    """Stands for device.update.Update. What is done is noted."""

    def __init__(self, done: list[str], in_trial: bool = False) -> None:
        self.done = done
        self.trial = in_trial

    def in_trial(self) -> bool:
        return self.trial

    async def take(self, version: str) -> bool:
        self.done.append("took " + version)
        return False


class Times:
    def __init__(self, counter: Any) -> None:
        self.counter = counter


class Power:
    woken = low = empty = False


class Microphone:
    """Stands for the microphone, as far as a change of its gain goes."""

    def __init__(self) -> None:
        self.gain_bits = 2
        self.calls: list[str] = []

    def set_gain(self, gain_bits: int) -> None:
        adpcm.new_state(gain_bits)
        self.gain_bits = gain_bits

    def stop(self) -> None:
        self.calls.append("stop")

    def start(self) -> None:
        self.calls.append("start")


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(time, "ticks_ms", lambda: 0, raising=False)
    monkeypatch.setattr(time, "ticks_add", lambda ticks, ms: (ticks + ms) % PERIOD, raising=False)
    monkeypatch.delitem(sys.modules, "pendant.control", raising=False)
    import pendant.control

    yield pendant.control
    del sys.modules["pendant.control"]


def made(control: Any, counter: Any = None, microphone: Any = None) -> Any:
    from device.ticks import Counter

    counter = counter or Counter("0badc0de", 0)
    return control.Pendant(None, None, microphone, Times(counter), None, Power(), None)


def test_a_check_in_after_days_without_the_server(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from device.ticks import Counter

    for days_away in (0, 1, 5, 6, 7, 9, 12, 13, 20):
        now_ms = PERIOD - 5000
        monkeypatch.setattr(control, "ticks_ms", lambda: now_ms % PERIOD)  # noqa: B023
        counter = Counter("0badc0de", now_ms)
        pendant = made(control, counter)
        pendant.twin = twin = Twin()
        asyncio.run(pendant._check_in())
        for _ in range(days_away):
            now_ms += DAY_MS
            counter.at_ms(now_ms % PERIOD)  # as the watch does
        now_ms += 599_000
        asyncio.run(pendant._check_in())
        assert twin.check_ins == (1 if days_away == 0 else 2), days_away
        now_ms += 601_000
        asyncio.run(pendant._check_in())
        assert twin.check_ins == (2 if days_away == 0 else 3), days_away


def after_days(control: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Any, int]]:
    """(days, a pendant that was awake and not touched for so long, ticks_ms now)."""
    from device.ticks import Counter

    for days in range(21):
        now_ms = PERIOD - 5000
        monkeypatch.setattr(control, "ticks_ms", lambda: now_ms % PERIOD)  # noqa: B023
        pendant = made(control, Counter("0badc0de", now_ms))
        for _ in range(days):
            now_ms += DAY_MS
            pendant._counter.at_ms(now_ms % PERIOD)  # as the watch does
        yield days, pendant, now_ms % PERIOD


def test_a_tap_after_days_on_the_cable_waits_for_another_no_longer(
    control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days, pendant, now in after_days(control, monkeypatch):
        pendant._tapped(now)
        assert pendant._alone_at == (now + control.DOUBLE_MS) % PERIOD, days
        pendant._button = type("Button", (), {"woken": lambda self: False})()
        pendant._touched(now)
        pendant._tapped(now)
        assert pendant._alone_at == (now + control.DOUBLE_AFTER_WAKE_MS) % PERIOD, days


def test_taken_off_the_cable_after_days_it_sleeps_as_deeply_as_after_minutes(
    control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asleep(Exception):
        pass

    def sleep_deeply() -> None:
        raise Asleep

    def sleep_lightly(ms: int, held: bool) -> bool:
        raise AssertionError("light sleep")

    for days, pendant, _ in after_days(control, monkeypatch):
        pendant._microphone, pendant._light = Microphone(), Light()
        pendant._button = type("Button", (), {"settled": lambda self: True, "down": False})()
        pendant._watchdog = type("Watchdog", (), {"feed": lambda self: None})()
        pendant._power.light_sleep, pendant._deep_sleep = sleep_lightly, sleep_deeply
        with pytest.raises(Asleep if days else AssertionError):
            pendant._sleep()


def test_a_task_goes_on_when_no_memory_is_left_to_say_why(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError

    def error(what: str, problem: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(control.log, "error", error)
    asyncio.run(control.forever("storing", work))
    assert len(tries) == 2


def test_settings_are_taken_or_refused_with_a_reason(control: Any) -> None:
    microphone = Microphone()
    pendant = made(control, None, microphone)
    assert pendant.settings() == {"gain_db": 0, "sleep_after_s": 300}
    for key, value in (
        *(("gain_db", value) for value in (7, 30, -30, "6", None, True, 6.0)),
        *(("sleep_after_s", value) for value in (-1, 3601, "60", False)),
        ("gain", 6),
    ):
        with pytest.raises(ValueError, match=r"gain|sleep|setting"):
            pendant.apply(key, value)
    assert pendant.settings() == {"gain_db": 0, "sleep_after_s": 300} and not microphone.calls
    pendant.apply("sleep_after_s", 0)
    pendant.state = "sending"
    pendant.apply("gain_db", -12)
    assert pendant.settings() == {"gain_db": -12, "sleep_after_s": 0} and microphone.calls == ["stop", "start"]
    pendant.state = "recording"  # then from the next start on
    for gain_db in range(-24, 25, 6):
        pendant.apply("gain_db", gain_db)
        assert pendant.settings()["gain_db"] == config.check_some({"gain_db": gain_db})["gain_db"]
    assert microphone.calls == ["stop", "start"]


def test_no_update_is_begun_on_a_low_battery(control: Any, capsys: Any) -> None:
    from device.ticks import Counter

    for low in (True, False):
        pendant = made(control, Counter("0badc0de", 0))
        done: list[str] = []
        pendant.twin, pendant.update = Twin(), Update(done)
        pendant.twin.offers = {"update": {"version": "2"}}
        pendant._power.low = low
        asyncio.run(pendant._check_in())
        assert done == ([] if low else ["took 2"])
        assert ("waits for the battery" in capsys.readouterr().out) == low


def test_a_trial_is_confirmed_before_the_notes_are_sent(control: Any) -> None:
    """And an update, which may take minutes, begun after them."""
    from device.ticks import Counter

    for in_trial in (True, False):
        done: list[str] = []
        pendant = made(control, Counter("0badc0de", 0))
        pendant.twin, pendant.update = Twin(done), Update(done, in_trial)
        pendant.twin.offers = {"update": {"version": "2"}}
        pendant.spool, pendant.wifi, pendant.upload = Spool(), Wifi(), Upload(done)
        asyncio.run(pendant._talk())
        talk = ["check-in", "took 2"]
        assert done == ([*talk, "notes"] if in_trial else ["notes", *talk])
        assert pendant._events[-1][0] == "sent"


@pytest.mark.parametrize("stuck", [True, False])
def test_a_note_that_ends_every_talk_keeps_no_update_away(control: Any, capsys: Any, stuck: bool) -> None:
    from device.link import LinkError
    from device.ticks import Counter

    class Broken(Upload):
        async def send_all(self) -> tuple[int, int]:
            raise LinkError("answer refused")

        def stuck(self) -> bool:
            return stuck

    done: list[str] = []
    pendant = made(control, Counter("0badc0de", 0))
    pendant.twin, pendant.update = Twin(done), Update(done)
    pendant.twin.offers = {"update": {"version": "2"}}
    pendant.spool, pendant.wifi, pendant.upload = Spool(), Wifi(), Broken(done)
    pendant._light = Light()
    asyncio.run(pendant._talk())
    assert done == (["check-in", "took 2"] if stuck else [])
    assert pendant._events[-1][0] == "failed"


def test_a_talk_ends_though_there_is_no_memory_to_say_why(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from device.ticks import Counter

    def full(*_: Any) -> None:
        raise MemoryError

    pendant = made(control, Counter("0badc0de", 0))
    pendant.spool, pendant.upload, pendant._light = Spool(), None, Light()
    monkeypatch.setattr(control.log, "error", full)
    with pytest.raises(MemoryError):
        asyncio.run(pendant._talk())
    assert [event[0] for event in pendant._events] == ["failed"]


class Light:
    """Stands for device.light.Light."""

    def __init__(self) -> None:
        self.on = False
        self.codes: list[str] = []

    def set(self, on: bool) -> None:
        self.on = on

    def pattern(self, name: str) -> None:
        self.codes.append(name)


class Ring(Microphone):
    """Stands for the microphone, as far as recording goes; it begins with the valid sound of a moment ago."""

    valid = True

    def __init__(self, blocks: int, done: list[str]) -> None:
        super().__init__()
        self.blocks, self.done = blocks, done
        self.recording = False

    def room(self) -> int:
        return self.blocks

    def free(self, before: int | None = None) -> None:
        pass

    def look(self) -> None:
        pass

    def begin(self, at: int, blocks: int) -> None:
        self.recording = True
        self.done.append("begin")

    def drop(self) -> None:
        self.recording = False

    async def end(self, at: int) -> Any:
        from pendant.microphone import Take

        self.recording = False
        return Take(0, 4, at, 0)


@pytest.fixture
def sleeps(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that does not pass, and MicroPython's `sleep_ms`."""
    monkeypatch.setattr(control.asyncio, "sleep_ms", lambda ms: asyncio.sleep(0), raising=False)


def recording(control: Any, blocks: int = 1000, done: list[str] | None = None) -> Any:
    pendant = made(control, None, Ring(blocks, [] if done is None else done))
    pendant._light = Light()
    return pendant


async def go_on(*works: Any) -> None:
    """The tasks as far as they come in some turns."""
    tasks = [asyncio.create_task(work) for work in works]
    for _ in range(50):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError), result


def test_nothing_is_stored_when_a_press_comes_in_the_moment_that_storing_begins(control: Any) -> None:
    pendant = recording(control)
    pendant._takes = [None]
    stored = []

    class Busy:
        def writer(self, note_id: str) -> None:
            stored.append(note_id)

        def new_id(self) -> str:
            return "p7-0"

    async def begin_and_press() -> None:
        pendant.spool = Busy()
        await asyncio.sleep(0)  # `store` waits
        pendant._may_store.set()
        pendant._may_store.clear()
        await asyncio.sleep(1)

    asyncio.run(go_on(pendant.store(), begin_and_press()))
    assert not stored


def test_a_talk_has_closed_its_files_before_a_recording_begins(control: Any, sleeps: None) -> None:
    done: list[str] = []
    pendant = recording(control, done=done)

    async def talk() -> None:
        try:
            await asyncio.sleep(99)
        finally:
            await asyncio.sleep(0)
            done.append("closed")

    async def press() -> None:
        pendant._sending = asyncio.create_task(talk())
        await asyncio.sleep(0)
        pendant.state = "sending"
        pendant._post("press", 0)
        await asyncio.sleep(1)

    asyncio.run(go_on(pendant.control(), press()))
    assert done == ["closed", "begin"] and pendant.state == "recording"


def test_a_refused_double_tap_leaves_nothing_on(control: Any, sleeps: None) -> None:
    """All of its changes wait, as behind a blocking call, when the first is refused."""
    pendant = recording(control, blocks=0)
    pendant.state = "idle"
    pendant._watchdog = type("Watchdog", (), {"feed": lambda self: None})()
    pendant._counter = type("Counter", (), {"at_ms": lambda self, ticks: ticks})()
    for event in ("press", "tap", "press", "tap"):
        pendant._post(event, 0)
    asyncio.run(go_on(pendant.control(), pendant.watch()))
    assert pendant.state == "storing" and pendant._may_store.is_set()
    assert not pendant._light.on and pendant._light.codes == ["refused", "refused"]
    pendant.state = "hands-free"  # and if it should ever be in such a state with nothing recorded
    asyncio.run(go_on(pendant.watch()))
    assert not pendant._light.on


def test_a_recording_whose_stamp_needs_more_memory_than_there_is_is_kept(control: Any, sleeps: None) -> None:
    pendant = recording(control)

    class NoMemory:
        def stamp(self, ticks: int) -> None:
            raise MemoryError

    pendant._times = NoMemory()
    pendant._microphone.begin(0, 1)
    with pytest.raises(MemoryError):
        asyncio.run(pendant._stop(0))
    assert len(pendant._takes) == 1
    pendant._times = type("Times", (), {"stamp": lambda self, ticks: {"start_ms": ticks}})()

    class Full:
        def new_id(self) -> str:
            return "p7-0"

        def writer(self, note_id: str) -> None:
            raise OSError(28)

    pendant.spool = Full()
    asyncio.run(pendant._store_one())
    assert pendant._takes[0].stamp == {"start_ms": 0}


def idle(control: Any) -> Any:
    """With nothing to stay awake for."""
    pendant = recording(control)
    pendant._light.playing = False
    pendant._power.usb = lambda: False
    pendant._power.battery = type("Battery", (), {"low": False})()
    pendant._button = type("Button", (), {"settled": lambda self: True})()
    pendant._awake_until = 0
    return pendant


def test_it_does_not_sleep_while_it_stores(control: Any) -> None:
    pendant = idle(control)
    pendant._may_store.set()
    pendant._look_idle(0)
    assert pendant._events == []
    pendant._may_store.clear()
    pendant._look_idle(0)
    assert pendant._events == [("sleep", 0)]


def test_it_does_not_sleep_while_it_is_told_its_wifi(control: Any) -> None:
    pendant = idle(control)
    pendant.cable = type("Cable", (), {"talking": lambda self: talking})()
    talking = True
    pendant._look_idle(0)
    assert pendant._events == []
    talking = False
    pendant._look_idle(0)
    assert pendant._events == [("sleep", 0)]


def test_the_clock_is_not_set_to_before_the_certificates(control: Any, certificate: Any) -> None:
    """A server whose clock is years behind must not lock itself out."""
    from device.link import Link
    from device.walltime import not_before

    class Rtc:
        now = (2000, 1, 1, 0, 0, 0, 0, 0)

        def datetime(self, fields: tuple[int, ...] | None = None) -> tuple[int, ...]:
            if fields is not None:
                self.now = (*fields[:3], 0, *fields[4:7], 0)
            return self.now

    older, newer = (certificate(days_before=days)[2] for days in (30, 2))
    for pinned, following in ((older, newer), (newer, older), (newer, None)):
        pendant = made(control)
        pendant.rtc = Rtc()
        pendant._times.told = lambda time_ms, ticks: None
        pendant.link = Link("192.0.2.1", 1, pinned, "")
        pendant.link.next_der = following
        pendant._told(1_577_836_800_000)  # 2020
        year, month, day, _, hour, minute, second, _ = pendant.rtc.datetime()
        assert (year, month, day, hour, minute, second) == not_before(newer)
        pendant._told(1_900_000_000_000)
        assert pendant.rtc.datetime()[0] == 2030


def test_before_the_room_on_the_flash_is_known_a_recording_is_short(control: Any) -> None:
    pendant = recording(control, blocks=100_000)
    assert pendant.room_s() == 60
    pendant._flash_blocks = 50_000
    assert pendant.room_s() == 599
    pendant._flash_blocks = 40
    assert pendant.room_s() == 1


def test_it_is_busy_until_what_was_said_is_stored(control: Any) -> None:
    pendant = recording(control)
    for state, takes, busy in (("idle", [], False), ("ending", [], True), ("storing", [1], True), ("idle", [1], True)):
        pendant.state, pendant._takes = state, takes
        assert pendant.busy() == busy, state


def test_a_note_that_was_cut_off_is_mended_in_steps_beside_many(
    control: Any, sleeps: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A press must not wait for the list of them, nor may it be mended while that press records."""
    from pendant import spool, wav

    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:06d}-{number:016x}.wav").write_bytes(b"")
    note = wav.header("p7-" + "f" * 16, {"counter": "0badc0de", "start_ms": 1, "asleep_ms": 0}, 0, 2) + bytes(256)
    (folder / "storing").write_bytes(note)
    pendant = recording(control)
    pendant.state = "idle"
    known = [0]
    made: list[Any] = []

    class Here(spool.Spool):
        def __init__(self, path: str, device: str, random: Any) -> None:
            super().__init__(str(folder), device, random)
            made.append(self)

    monkeypatch.setattr(spool, "Spool", Here)

    async def press_near_the_end() -> None:
        while known[-1] < 90:
            await asyncio.sleep(0)
            known.append(sum(len(piece) for piece in made[0]._pieces) // 12 if made else 0)
        pendant.state = "recording"
        for _ in range(20):
            await asyncio.sleep(0)
        assert (folder / "storing").exists()
        pendant.state = "idle"
        await asyncio.sleep(99)

    asyncio.run(go_on(press_near_the_end(), hold(pendant.open_spool({"device": "p7"}))))
    assert max(after - before for before, after in pairwise(known)) <= 16
    assert not (folder / "storing").exists() and pendant.spool.waiting == 101


async def hold(work: Any) -> None:
    """It, and then nothing."""
    await work
    await asyncio.sleep(99)
