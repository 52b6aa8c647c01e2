"""What the pendant does: tasks that carry out the table in `states`, and what they share."""

import asyncio
import gc
import os
import struct
from time import ticks_add, ticks_ms

from device import log
from device.ticks import diff

from pendant import adpcm, states
from pendant.microphone import GAIN_BITS, LONGEST_S
from pendant.power import SLICE_MS

TAP_MS = 300  # a press shorter than this is a tap: nothing is kept of it, what waits is sent
DOUBLE_MS = 400  # from a tap to the press that makes a double tap of it
DOUBLE_AFTER_WAKE_MS = 1500  # the same from a wake-up on, of which the first tap may have been lost
LEAST_ROOM_BLOCKS = 64  # 2 s: with less room than that a press is refused
CHECK_IN_MS = 600_000
BACK_OFF_MS = 2000  # doubled with each failure
LONGEST_BACK_OFF_MS = 300_000
WIFI_S = 20
# Awake: after the start, until all is there for the first talk; after power-on, so that a program on the desk can reach
# the board; after a use, until light sleep, which hears less at once; and for the light code to be seen.
STARTING_MS = 15_000
POWER_ON_MS = 120_000
IDLE_MS = 5_000
SLEEP_AFTER_S = 300  # light sleep after the last use, until deep sleep
# Deep sleep is left by itself for what waits, after 5 minutes and then twice as long each time, up to an hour: looking
# for a network that is not there costs about 0.5 mAh [est]. And now and then in any case, to check in: 0.1 mAh [est].
ASLEEP_MS = 300_000
LONGEST_ASLEEP_MS = 3_600_000
CHECK_IN_ASLEEP_MS = 21_600_000
_LOOK_MS = 100
_BATTERY_MS = 5_000
_LATE_MS = 50  # a press is known 30 ms after its edge
_LEAVING_MS = 500  # for the talk that a press cut short to close what it has open
_LEAVING_STEP_MS = 5
_CHUNK_BLOCKS = 16  # one block of LittleFS at a time, so that a press waits for one erase at most
_UNMEASURED_BLOCKS = 1902  # a minute: pressed at power-on, before the room on the flash is known
# Over deep sleep: magic; sleeps since the server was reached; room on the flash, blocks, or -1; the button was held.
_KEPT = "<4sBiB"
_MAGIC = b"pen2"


class Pendant:
    """The tasks and what they share. `spool`, `upload`, `wifi`, `link`, `update`, `cable` are None until prepared.

    times: pendant.times.Times; power: pendant.power.Power; rtc: machine.RTC.
    """

    def __init__(self, button, light, microphone, times, watchdog, power, rtc):
        self._button = button
        self._light = light
        self._microphone = microphone
        self._times = times
        self._counter = times.counter
        self._watchdog = watchdog
        self._power = power
        self.rtc = rtc
        self.state = "asleep"
        self._events = []  # (name, ticks_ms), for `control`
        self._news = asyncio.Event()
        self._pressed = 0  # ticks_ms of the last press
        self._alone_at = ticks_ms()  # until which a second tap makes a double tap
        self._takes = []  # recordings that are in memory alone
        self._may_store = asyncio.Event()
        self._writer = None  # of the first of them
        self._stored_blocks = 0  # of the first of them
        self._sending = None
        self._failures = 0
        self._next_talk = ticks_ms()
        self._checked_in = None  # the counter's ms at the last check-in
        self._flash_blocks = None  # room on the flash, as of the last store or talk
        # These two by the counter, for without a use or a sleep, as on its cable, days go by: ticks_ms would wrap.
        self._used = self._counter.at_ms(ticks_ms())  # at the last use; None: woken by the timer, to deep sleep at once
        self._woken = -DOUBLE_AFTER_WAKE_MS  # by the button
        self._awake_until = ticks_add(ticks_ms(), STARTING_MS if power.woken else POWER_ON_MS)
        self._naps = 0  # deep sleeps since the server was reached last
        self._sleep_after_s = SLEEP_AFTER_S
        self._warned = power.woken  # of a low battery, since the last use
        self._battery_looked = ticks_ms()
        self.spool = self.upload = self.wifi = self.link = self.twin = self.update = self.cable = None

    def begin(self, kept: bytes):
        """The first event, from what woke the board. `kept`: what `_deep_sleep` kept beside the times."""
        held = 0
        if len(kept) == struct.calcsize(_KEPT) and kept[:4] == _MAGIC:
            _, self._naps, blocks, held = struct.unpack(_KEPT, kept)
            self._flash_blocks = blocks if blocks >= 0 else None
        if self._power.empty:
            self._light.pattern("low battery")
        if self._power.woken_by_button:
            self._touched(0)  # the ticks begin at the wake-up
            return
        if self._power.woken:
            self._used = None
            if held:
                self._button.woken()  # held since before the sleep, as in a bag, it is no press
        self._post("wake")

    def now(self):
        """(the counter's mark, its milliseconds now, the part of them asleep), for an upload."""
        return self._times.now(ticks_ms())

    def busy(self) -> bool:
        """Something is being said, or is in memory alone."""
        return self.state in states.RECORDING or bool(self._takes)

    def room_s(self) -> int:
        """How long a recording could be that began now."""
        return self._room_blocks() * adpcm.BLOCK_SAMPLES // adpcm.SAMPLE_RATE_HZ

    def _post(self, event, at=None):
        self._events.append((event, ticks_ms() if at is None else at))
        self._news.set()

    def measure_flash(self, spool):
        """Takes note of the room on the flash: slow, so not at a press."""
        self._flash_blocks = spool.free_bytes() // adpcm.BLOCK_BYTES

    # Settings (docs/protocol.md, "Settings")

    def settings(self) -> dict:
        return {"gain_db": 6 * (self._microphone.gain_bits - GAIN_BITS), "sleep_after_s": self._sleep_after_s}

    def apply(self, key: str, value):
        """Sets one of the settings; ValueError with the reason if it cannot be."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("%s is not an integer" % key)
        if key == "gain_db":
            if value % 6 or not -24 <= value <= 24:
                raise ValueError("gain_db is from -24 to 24, in steps of 6")
            self._microphone.set_gain(GAIN_BITS + value // 6)
            if self.state not in states.RECORDING:
                self._microphone.stop()
                self._microphone.start()
        elif key == "sleep_after_s":
            if not 0 <= value <= 3600:
                raise ValueError("sleep_after_s is from 0 to 3600")
            self._sleep_after_s = value
        else:
            raise ValueError("no such setting")

    # Tasks

    async def watch_button(self):
        while True:
            down, at = await self._button.change()
            if down:
                self._pressed = at
                self._post("press", at)
            else:
                self._post("tap" if diff(at, self._pressed) < TAP_MS else "release", at)

    async def control(self):
        """Takes one event after another through the table of states."""
        while True:
            if not self._events:
                self._news.clear()
                await self._news.wait()
                continue
            event, at = self._events.pop(0)
            if event == "press" and self.state == "tapped" and diff(at, self._alone_at) > 0:
                self._events.insert(0, (event, at))  # seen late: the tap before it was alone
                event = "alone"
            self.state, action = states.after(self.state, event)
            if self.state == "tapped" and event == "tap":
                self._tapped(at)
            if action == "record":
                await self._record(at)
            elif action == "drop":
                self._drop()
            elif action == "stop":
                try:
                    await self._stop(self._pressed if event == "tap" else at)
                finally:  # whatever happens: storing is what leads on from here
                    self._may_store.set()
            elif action == "store":
                self._may_store.set()
            elif action == "send":
                self._sending = asyncio.create_task(self._talk())
            elif action == "leave":
                await self._leave()
            elif action == "rest":
                self._rest()
            elif action == "sleep":
                try:
                    self._sleep()
                except Exception:
                    self._microphone.stop()  # as far as it had come; then all is as it is awake
                    self._microphone.start()
                    self._post("wake")
                    raise

    async def watch(self):
        """Looks after the microphone, the clock for the next talk, sleep, the battery and the watchdog."""
        while True:
            self._watchdog.feed()
            now = ticks_ms()
            self._counter.at_ms(now)
            seen = self._microphone.look()
            if seen == "limit":
                self._post("limit")
            elif seen == "stalled":
                log.error("the microphone gave nothing and was started anew: check its wires")
            if diff(now, self._battery_looked) >= _BATTERY_MS:
                self._battery_looked = now
                self._power.look()
                if self._power.empty:
                    self._post("empty")
            if self.state in states.RECORDING:
                self._light.set(self._microphone.recording and self._microphone.valid)
            elif self.state == "tapped":
                if diff(now, self._alone_at) > _LATE_MS:
                    self._post("alone")
            elif self.state == "idle":
                self._look_idle(now)
            elif self.state == "sending" and self._sending is not None and self._sending.done():
                self._post("failed")  # it could not even say so; one event too many changes nothing
            await asyncio.sleep_ms(_LOOK_MS)

    def _look_idle(self, now):
        if self.upload is not None and not self._power.empty and diff(now, self._next_talk) >= 0:
            self._post("due")
        elif self._light.playing:
            pass
        elif self._power.battery.low and not self._warned:
            self._warned = True
            self._light.pattern("low battery")
        elif self._power.usb() or (self.update is not None and self.update.in_trial()):
            pass
        elif self.cable is not None and self.cable.talking():
            pass  # asleep it would lose USB, and the page on the desk its port
        elif self._may_store.is_set() or not self._button.settled():
            pass  # what could not be stored before is tried in this state, too
        elif self._power.empty or diff(now, self._awake_until) >= 0:
            self._post("sleep")

    async def store(self):
        """Writes recordings to the flash while it may; stops at the end of a chunk when it may not."""
        while True:
            await self._may_store.wait()
            if not self._may_store.is_set():
                continue  # a press came first: `wait` returns once it was set
            if self.spool is None:  # just started, and somebody was quick
                await asyncio.sleep_ms(_LOOK_MS)
            elif not self._takes:
                self._may_store.clear()
                self._post("stored")
                self.measure_flash(self.spool)
            else:
                await self._store_one()

    # Actions

    def _touched(self, at):
        """The button ended a sleep, at `at`."""
        self._woken = self._counter.at_ms(at)
        self._pressed = at
        self._post("press" if self._button.woken() else "tap", at)

    def _tapped(self, at):
        self._used = self._counter.at_ms(at)
        self._alone_at = ticks_add(at, max(DOUBLE_MS, self._woken + DOUBLE_AFTER_WAKE_MS - self._used))
        self._naps = 0
        self._try_again()

    async def _record(self, at):
        self._used = self._counter.at_ms(at)
        self._naps = 0
        self._warned = False
        self._may_store.clear()
        if self.wifi is not None:
            self.wifi.give_way()
        await self._leave()
        blocks = self._room_blocks()
        if self._power.empty or blocks < LEAST_ROOM_BLOCKS:
            self._try_again()
            if self._power.empty:
                self._warned = True
                self._light.pattern("low battery")
                log.error("the battery is empty: %d mV; nothing is recorded" % self._power.battery.mv)
            else:
                self._light.pattern("refused")
                log.error("no room to record: %d blocks; let it send what waits" % blocks)
            self._events.insert(0, ("refused", at))  # before what was pressed since
            return
        if not self._takes:
            self._microphone.free()
        gc.collect()  # now, so that none is needed while recording
        self._microphone.begin(at, blocks)
        self._light.set(self._microphone.valid)

    async def _leave(self):
        talk, self._sending = self._sending, None
        if talk is None:
            return
        talk.cancel()  # closes its connection; the server keeps what has come
        # And its file, if there is an update: that writes to the flash. The ring holds a second from before.
        for _ in range(_LEAVING_MS // _LEAVING_STEP_MS):
            if talk.done():
                break
            await asyncio.sleep_ms(_LEAVING_STEP_MS)

    def _room_blocks(self):
        room = min(self._microphone.room(), LONGEST_S * adpcm.SAMPLE_RATE_HZ // adpcm.BLOCK_SAMPLES)
        flash = _UNMEASURED_BLOCKS if self._flash_blocks is None else self._flash_blocks
        return min(room, flash - sum(take.blocks for take in self._takes))

    def _drop(self):
        self._light.set(False)
        self._microphone.drop()
        if not self._takes:
            self._microphone.free()

    async def _stop(self, at):
        self._light.set(False)
        self._used = self._counter.at_ms(at)
        take = await self._microphone.end(at)
        if take is None:
            log.error("nothing was heard: no sample came from the microphone")
        else:
            self._takes.append(take)  # first: the stamp needs memory, and is tried again when it is stored
            take.stamp = self._times.stamp(take.start)
            log.info("recorded %d ms, lost %d samples" % (take.blocks * adpcm.BLOCK_SAMPLES // 16, take.lost))
        if not self._takes:
            self._microphone.free()

    def _try_again(self):
        if self.upload is not None:
            self.upload.try_again()

    async def _store_one(self):
        from pendant import wav

        take = self._takes[0]
        try:
            if self._writer is None:
                take.stamp = take.stamp or self._times.stamp(take.start)
                self._writer = self.spool.writer(self.spool.new_id())
                self._stored_blocks = 0
                self._writer.write(wav.header(self._writer.note_id, take.stamp, take.lost, take.blocks))
            while self._stored_blocks < take.blocks:
                await asyncio.sleep_ms(0)
                if not self._may_store.is_set():
                    return  # a press: the rest stays in memory until there is time
                left = take.blocks - self._stored_blocks
                piece = self._microphone.piece(take.first + self._stored_blocks, min(left, _CHUNK_BLOCKS))
                self._writer.write(piece)
                self._stored_blocks += len(piece) // adpcm.BLOCK_BYTES
            note_id = self._writer.finish()
        except Exception as e:
            if self._writer is not None:  # how much of a piece was written is not known: begin anew
                self._writer.abandon()
                self._writer = None
            if not isinstance(e, OSError):
                raise
            # Most likely the flash is full. It stays in memory, and is tried again when the server has been talked to.
            log.error("storing a note, which stays in memory", e)
            self._light.pattern("trouble")
            self._may_store.clear()
            self._post("stored")
            return
        self._writer = None
        self._takes.pop(0)
        self._microphone.free(self._takes[0].first if self._takes else None)
        log.info("stored %s" % note_id)
        self._light.pattern("stored")

    async def _talk(self):
        """All that waits goes to the server, then a check-in if it is time for one. Posts how it ended."""
        self._next_talk = ticks_add(ticks_ms(), BACK_OFF_MS)
        advances = self.upload.advances if self.upload is not None else 0
        if self._power.empty:
            self._end_talk("failed")
            return
        try:
            if self.upload is None:
                raise OSError("not ready yet")
            while not self.spool.load():
                await asyncio.sleep_ms(0)  # the button may want the board
            if not await self.wifi.connect(WIFI_S):
                raise OSError("no network: none of those in config.json could be joined")
            if self.update.in_trial():
                await self._check_in()  # its ten minutes do not wait for the notes, of which there may be many
            try:
                delivered, refused = await self.upload.send_all()
            except OSError:
                if self.upload.stuck():  # it may be an update that it needs
                    await self._check_in()
                raise
            if refused:
                self._light.pattern("trouble")
            elif delivered:
                self._light.pattern("delivered")
            await self._check_in()
            self._failures = self._naps = 0
            self._next_talk = ticks_add(ticks_ms(), CHECK_IN_MS)
        except Exception as e:
            if self.upload is not None and self.upload.advances != advances:
                self._failures = 0  # a bad link, but one that leads somewhere
            wait_ms = min(LONGEST_BACK_OFF_MS, BACK_OFF_MS << min(self._failures, 10))
            self._next_talk = ticks_add(ticks_ms(), wait_ms)
            self._failures += 1
            if self.spool is not None and self.spool.may_wait():
                self._light.pattern("trouble" if self.wifi is not None and self.wifi.connected() else "no network")
            self._end_talk("failed")
            log.error("talking to the server", e)  # after it: this may need memory that is not to be had
        else:
            self._end_talk("sent")
        if self.spool is not None:
            self.measure_flash(self.spool)

    def _end_talk(self, event):
        self._post(event)
        if self._used is None:
            self._awake_until = ticks_ms()

    async def _check_in(self):
        now_ms = self._counter.at_ms(ticks_ms())
        if self._checked_in is not None and now_ms - self._checked_in < CHECK_IN_MS:
            return
        answer = await self.twin.check_in()
        if "settings" in answer or "next_certificate" in answer:
            answer = await self.twin.check_in()  # what has become of it: the next regular one may be hours away
        self._checked_in = now_ms
        self._try_again()
        if "update" not in answer:
            return
        if self._power.low:
            log.info("an update waits for the battery to be charged")
        elif await self.update.take(str(answer["update"].get("version"))):
            if not self._takes and self.state == "sending":
                self._power.restart()
            self._checked_in = None  # then after the next talk

    def _told(self, time_ms):
        from device.walltime import set_ms

        set_ms(self.rtc, time_ms)
        self._advance()  # a server whose clock is wrong could not be verified any more
        self._times.told(time_ms, ticks_ms())

    def _advance(self):
        """Sets the clock to where both certificates are valid, if it is behind."""
        from device.walltime import advance, not_before

        for der in self.link.certificates():
            advance(self.rtc, not_before(der))

    def _report(self):
        """The pendant's own part of a check-in (docs/protocol.md)."""
        battery = self._power.battery
        return {
            "battery_mv": battery.mv,
            "battery_low": battery.low,
            "usb": self._power.usb(),
            "flash_free_bytes": (self._flash_blocks or 0) * adpcm.BLOCK_BYTES,
            "waiting": self.spool.waiting,
            "rssi_dbm": self.wifi.rssi_dbm(),
        }

    def _rest(self):
        self._sending = None
        until = ticks_add(ticks_ms(), IDLE_MS if self._used is not None else 0)
        if diff(until, self._awake_until) > 0:
            self._awake_until = until
        if self._takes:  # could not be stored the last time; there may be room now
            self._may_store.set()

    # Sleep

    def _sleep(self):
        """Light sleep until the button, the cable or the time for a talk; then deep sleep, which does not return."""
        if self._events or not self._button.settled():
            self._post("wake")
            return
        self._microphone.stop()
        self._light.set(False)
        if self.link is not None:
            self.link.close()
        if self.wifi is not None:
            self.wifi.off()
        while True:
            self._watchdog.feed()
            if not self._button.settled():  # pressed while it prepared to sleep, or between two parts of it
                self._microphone.start()
                self._post("wake")
                return
            began = ticks_ms()
            wait_ms = SLICE_MS
            if not self._takes:  # else memory must be kept
                deep_ms = 0
                if self._used is not None and not self._power.empty:
                    deep_ms = self._sleep_after_s * 1000 - (self._counter.at_ms(began) - self._used)
                if deep_ms <= 0:
                    self._deep_sleep()
                wait_ms = min(wait_ms, deep_ms)
            if self.upload is not None and not self._power.empty:
                wait_ms = min(wait_ms, diff(self._next_talk, began))
            by_button = wait_ms > 0 and self._power.light_sleep(wait_ms, self._button.down)
            now = ticks_ms()
            self._counter.at_ms(now)
            self._counter.dozed(diff(now, began))
            if by_button:
                self._microphone.start()
                self._touched(now)
                return
            self._power.look()
            if wait_ms <= 0 or self._power.usb():
                self._microphone.start()
                self._post("wake")
                return

    def _deep_sleep(self):
        """Does not return: the next start goes on from what the RTC's memory keeps."""
        ms = CHECK_IN_ASLEEP_MS
        if self._power.empty:
            ms = None  # the radio might be too much for it
        elif self.spool is not None and self.spool.may_wait():
            ms = min(LONGEST_ASLEEP_MS, ASLEEP_MS << min(self._naps, 10))
        blocks = -1 if self._flash_blocks is None else self._flash_blocks
        kept = struct.pack(_KEPT, _MAGIC, min(self._naps + 1, 255), blocks, self._button.down)
        log.info("deep sleep" if ms is None else "deep sleep for %d s" % (ms // 1000))
        self.rtc.memory(self._times.pack(self.rtc, ticks_ms()) + kept)
        self._power.deep_sleep(ms, self._button.down)

    # Preparing what is not needed to hear

    async def open_spool(self, settings):
        """What storing needs, while the microphone is already listening."""
        from pendant.spool import Spool

        await self._no_recording()  # somebody was quick; mending would write to the flash
        spool = Spool("/notes", settings["device"], os.urandom)
        if spool.interrupted():  # to mend that, it must know all others
            while not spool.load():
                await asyncio.sleep_ms(0)  # the button may want the board
            await self._no_recording()
        mended = spool.recover()
        if mended is not None:
            log.error(mended)
        self.measure_flash(spool)
        self.spool = spool

    async def prepare_upload(self, settings, board):
        """What sending needs."""
        import machine
        import network
        from device import config, twin
        from device.cable import Cable
        from device.link import Link
        from device.update import Update
        from device.wifi import Wifi

        from pendant.upload import Upload

        await self._no_recording()
        self._sleep_after_s = settings.get("sleep_after_s", SLEEP_AFTER_S)
        pinned, following = twin.certificates()
        self.wifi = Wifi(settings["wifi"], network.WLAN(network.STA_IF), "/network")
        server, token = settings["server"], settings["token"]
        self.link = Link(server["host"], server["port"], pinned, token, ready=self._microphone.brace)
        self.link.next_der, self.link.changed = following, twin.change
        self._advance()
        me = twin.identity("pendant", board["name"], machine)

        def counter_ms():
            return self._counter.at_ms(ticks_ms())

        def apply(key, value):
            self.apply(key, value)
            return True  # the twin keeps it

        self.twin = twin.Twin(self.link, me, counter_ms, self._report, self.settings, apply, self._told)
        self.twin.update = self.update = Update("", self.link.get, token, "pendant", me["mpy"], me["version"])
        self.upload = Upload(self.link, self.spool, self.now)
        about = ("Offbeat pendant", config.VERSION, board["name"], settings["device"])
        self.cable = Cable(self.wifi, about, self._no_recording)

    async def _no_recording(self):
        while self.state in states.RECORDING or self.state in ("asleep", "tapped"):
            await asyncio.sleep_ms(_LOOK_MS)


async def forever(name, work):
    """Run `work()`; if it raises, log it and run it anew after a second."""
    while True:
        try:
            await work()
            return
        except Exception as e:
            try:
                log.error(name, e)
            except MemoryError:
                print("error: no memory is left even to say what failed")
        await asyncio.sleep(1)
