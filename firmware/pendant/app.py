"""The pendant: press, speak, let go. Makes the hardware objects and joins the parts; what happens when is in `states`.

What is needed to hear is imported and started first; the rest is imported while the microphone settles.
"""

import asyncio
import gc
import os
import sys
from time import ticks_add, ticks_ms

from device import log
from device.button import Button
from device.light import Light
from device.ticks import Counter, diff
from pendant import adpcm, states
from pendant.microphone import LEAST_BLOCKS, LONGEST_S, Microphone

TAP_MS = 300  # a press shorter than this is a tap: nothing is kept of it, what waits is sent
LEAST_ROOM_BLOCKS = 64  # 2 s: with less room than that a press is refused
CHECK_IN_MS = 600_000
BACK_OFF_MS = 2000  # doubled with each failure
LONGEST_BACK_OFF_MS = 300_000
WIFI_S = 20
WATCHDOG_MS = 30_000  # longer than the longest blocking call, a name look-up that fails
MOST_RENEWED = 8  # notes given a new id in one talk: a server that knows every id already is mad
_LOOK_MS = 100
_CHUNK_BLOCKS = 16  # one block of LittleFS at a time, so that a press waits for one erase at most
# Left for everything else: on the chip 100 kB; on a 64-bit host objects are twice the size.
_RESERVE_BYTES = 204_800 if sys.maxsize > 1 << 32 else 102_400


def ring_memory():
    """The ring of the microphone: room for the longest recording, or what there is."""
    gc.collect()
    blocks = LONGEST_S * adpcm.SAMPLE_RATE_HZ // adpcm.BLOCK_SAMPLES + 2
    blocks = min(blocks, (gc.mem_free() - _RESERVE_BYTES) // adpcm.BLOCK_BYTES)
    while blocks >= LEAST_BLOCKS:
        try:
            return bytearray(blocks * adpcm.BLOCK_BYTES)
        except MemoryError:  # not in one piece
            blocks = blocks * 3 // 4
    raise MemoryError("too little memory to record: is this the firmware for a board with PSRAM?")


class Pendant:
    """The tasks and what they share. `upload`, `wifi` and `spool` are set by `main` when they are there."""

    def __init__(self, button, light, microphone, counter, watchdog):
        self._button = button
        self._light = light
        self._microphone = microphone
        self._counter = counter
        self._watchdog = watchdog
        self.state = "idle"
        self._events = []  # (name, ticks_ms), for `control`
        self._news = asyncio.Event()
        self._pressed = 0  # ticks_ms
        self._takes = []  # recordings that are in memory alone
        self._may_store = asyncio.Event()
        self._writer = None  # of the first of them
        self._stored_blocks = 0  # of the first of them
        self._sending = None
        self._failures = 0
        self._next_talk = ticks_ms()
        self._checked_in = None  # the counter's ms at the last check-in
        self._refused = []  # notes that the server will not take as they are, until the next check-in or tap
        self._flash_blocks = None  # room on the flash, as of the last store or talk
        self.spool = self.upload = self.wifi = self.rtc = None

    def now(self):
        """(the counter's mark, its milliseconds now), for an upload."""
        return self._counter.mark, self._counter.at_ms(ticks_ms())

    def room_s(self) -> int:
        """How long a recording could be that began now."""
        return self._room_blocks() * adpcm.BLOCK_SAMPLES // adpcm.SAMPLE_RATE_HZ

    def _post(self, event, at=None):
        self._events.append((event, ticks_ms() if at is None else at))
        self._news.set()

    def measure_flash(self, spool):
        """Takes note of the room on the flash: slow, so not at a press."""
        self._flash_blocks = spool.free_bytes() // adpcm.BLOCK_BYTES

    # Tasks

    async def watch_button(self):
        while True:
            down, at = await self._button.change()
            self._post("press" if down else "release", at)

    async def control(self):
        """Takes one event after another through the table of states."""
        while True:
            if not self._events:
                self._news.clear()
                await self._news.wait()
                continue
            event, at = self._events.pop(0)
            self.state, action = states.after(self.state, event)
            if action == "record":
                self._record(at)
            elif action == "stop":
                try:
                    await self._stop(at)
                finally:  # whatever happens: storing is what leads on from here
                    self._may_store.set()
            elif action == "store":
                self._may_store.set()
            elif action == "send":
                self._sending = asyncio.create_task(self._talk())
            elif action == "rest":
                self._sending = None
                if self._takes:  # could not be stored the last time; there may be room now
                    self._may_store.set()

    async def watch(self):
        """Looks after the microphone, the clock for the next talk, and the watchdog."""
        while True:
            self._watchdog.feed()
            now = ticks_ms()
            self._counter.at_ms(now)
            seen = self._microphone.look()
            if seen == "limit":
                self._post("limit")
            elif seen == "stalled":
                log.error("the microphone gave nothing and was started anew: check its wires")
            if self.state == "recording":
                self._light.set(self._microphone.valid)
            elif self.state == "idle" and self.upload is not None and diff(now, self._next_talk) >= 0:
                self._post("due")
            elif self.state == "sending" and self._sending is not None and self._sending.done():
                self._post("failed")  # it could not even say so; one event too many changes nothing
            await asyncio.sleep_ms(_LOOK_MS)

    async def store(self):
        """Writes recordings to the flash while it may; stops at the end of a chunk when it may not."""
        while True:
            await self._may_store.wait()
            if self.spool is None:  # just started, and somebody was quick
                await asyncio.sleep_ms(_LOOK_MS)
            elif not self._takes:
                self._may_store.clear()
                self._post("stored")
                self.measure_flash(self.spool)
            else:
                await self._store_one()

    # Actions

    def _record(self, at):
        self._may_store.clear()
        if self._sending is not None:
            self._sending.cancel()  # closes its connection; the server keeps what has come
            self._sending = None
        self._pressed = at
        blocks = self._room_blocks()
        if blocks < LEAST_ROOM_BLOCKS:
            self._refused.clear()
            self._light.pattern("refused")
            log.error("no room to record: %d blocks; let it send what waits" % blocks)
            self._post("refused")
            return
        if not self._takes:
            self._microphone.free()
        gc.collect()  # now, so that none is needed while recording
        self._microphone.begin(at, blocks)
        self._light.set(self._microphone.valid)

    def _room_blocks(self):
        room = min(self._microphone.room(), LONGEST_S * adpcm.SAMPLE_RATE_HZ // adpcm.BLOCK_SAMPLES)
        if self._flash_blocks is not None:
            room = min(room, self._flash_blocks - sum(take.blocks for take in self._takes))
        return room

    async def _stop(self, at):
        self._light.set(False)
        take = await self._microphone.end(at)
        if take is None:
            log.error("nothing was heard: no sample came from the microphone")
        elif diff(at, self._pressed) >= TAP_MS:
            self._takes.append(take)
            log.info("recorded %d ms, lost %d samples" % (take.blocks * adpcm.BLOCK_SAMPLES // 16, take.lost))
        else:
            self._refused.clear()
        if not self._takes:
            self._microphone.free()

    async def _store_one(self):
        from pendant import wav

        take = self._takes[0]
        try:
            if self._writer is None:
                self._writer = self.spool.writer(self.spool.new_id())
                self._stored_blocks = 0
                start_ms = self._counter.at_ms(take.start)
                head = wav.header(self._writer.note_id, self._counter.mark, start_ms, take.lost, take.blocks)
                self._writer.write(head)
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
        try:
            from pendant.upload import Refused

            if self.upload is None:
                raise OSError("not ready yet")
            if not await self.wifi.connect(WIFI_S):
                raise OSError("no network: none of those in config.json could be joined")
            delivered = renewed = refused = 0
            while renewed <= MOST_RENEWED:
                note_id = self.spool.first(self._refused)
                if note_id is None:
                    break
                try:
                    if await self.upload.send(note_id):
                        log.info("delivered %s" % note_id)
                        delivered += 1
                    else:
                        renewed += 1
                except Refused as e:
                    log.error("%s stays here" % note_id, e)
                    self._refused.append(note_id)
                    refused += 1
                    if len(self._refused) >= 8:
                        break
            if refused:
                self._light.pattern("trouble")
            elif delivered:
                self._light.pattern("delivered")
            await self._check_in()
            self._failures = 0
            self._next_talk = ticks_add(ticks_ms(), CHECK_IN_MS)
        except Exception as e:
            log.error("talking to the server", e)
            if self.spool is not None and self.spool.waiting:
                self._light.pattern("trouble" if self.wifi is not None and self.wifi.connected() else "no network")
            if self.upload is not None and self.upload.advances != advances:
                self._failures = 0  # a bad link, but one that leads somewhere
            wait_ms = min(LONGEST_BACK_OFF_MS, BACK_OFF_MS << min(self._failures, 10))
            self._next_talk = ticks_add(ticks_ms(), wait_ms)
            self._failures += 1
            self._end_talk("failed")
        else:
            self._end_talk("sent")

    def _end_talk(self, event):
        self._post(event)
        if self.spool is not None:
            self.measure_flash(self.spool)

    async def _check_in(self):
        from collections import OrderedDict

        from device.config import VERSION
        from device.walltime import set_ms

        now_ms = self._counter.at_ms(ticks_ms())
        if self._checked_in is not None and now_ms - self._checked_in < CHECK_IN_MS:
            return
        errors = log.errors()
        report = OrderedDict(
            (
                ("app", "pendant"),
                ("version", VERSION),
                ("waiting", self.spool.waiting),
                ("errors", errors),
            )
        )
        time_ms = await self.upload.check_in(report)
        log.reported(errors)
        set_ms(self.rtc, time_ms)
        self._checked_in = now_ms
        self._refused.clear()


async def forever(name, work):
    """Run `work()`; if it raises, log it and run it anew after a second."""
    while True:
        try:
            await work()
            return
        except Exception as e:
            log.error(name, e)
        await asyncio.sleep(1)


async def main(settings: dict, board: dict):
    from machine import I2S, WDT, Pin

    gc.threshold(-1)  # none but those that are asked for: a collection while recording may take 100 ms with PSRAM

    pins = board["pins"]
    counter = Counter("".join("%02x" % byte for byte in os.urandom(4)), ticks_ms())
    if "microphone_power" in pins:
        Pin(pins["microphone_power"], Pin.OUT, value=1)

    def open_i2s():
        sck, ws, sd = (Pin(pins["microphone_" + name]) for name in ("sck", "ws", "sd"))
        # ibuf: 0.51 s, for the driver keeps stereo frames of 8 bytes.
        return I2S(0, sck=sck, ws=ws, sd=sd, mode=I2S.RX, bits=32, format=I2S.MONO, rate=16000, ibuf=65536)

    microphone = Microphone(open_i2s, ring_memory(), ticks_ms)
    microphone.start()
    button = Button(Pin(pins["button"], Pin.IN, Pin.PULL_UP))
    light = Light(Pin(pins["light"], Pin.OUT), board["light_active_low"])
    pendant = Pendant(button, light, microphone, counter, WDT(timeout=WATCHDOG_MS))
    works = (
        ("the button", pendant.watch_button),
        ("the control", pendant.control),
        ("the watch", pendant.watch),
        ("storing", pendant.store),
        ("the light", light.run),
    )
    tasks = [asyncio.create_task(forever(name, work)) for name, work in works]
    await forever("opening the flash", lambda: _open_spool(pendant, settings))
    await forever("preparing to send", lambda: _prepare_upload(pendant, settings))
    log.info("ready: %d notes wait, room for %d s" % (pendant.spool.waiting, pendant.room_s()))
    for task in tasks:
        await task


async def _open_spool(pendant, settings):
    """What storing needs, while the microphone is already listening."""
    from pendant.spool import Spool

    while pendant.state == "recording":  # somebody was quick; mending would write to the flash
        await asyncio.sleep_ms(_LOOK_MS)
    spool = Spool("/notes", settings["device"], os.urandom)
    mended = spool.recover()
    if mended is not None:
        log.error(mended)
    pendant.measure_flash(spool)
    pendant.spool = spool


async def _prepare_upload(pendant, settings):
    """What sending needs."""
    import network
    from device.link import Link
    from device.walltime import advance, not_before
    from device.wifi import Wifi
    from machine import RTC
    from pendant.upload import Upload

    with open("/server.der", "rb") as file:
        certificate = file.read(4096)
    pendant.rtc = RTC()
    advance(pendant.rtc, not_before(certificate))
    pendant.wifi = Wifi(settings["wifi"], network.WLAN(network.STA_IF))
    server = settings["server"]
    link = Link(server["host"], server["port"], certificate, settings["token"])
    pendant.upload = Upload(link, pendant.spool, pendant.now)
