"""An INMP441 on I2S, always listening into a ring of encoded blocks, so that a press loses nothing.

The I2S handler encodes each block of 505 samples straight into the ring. It runs as a soft interrupt, between two
bytecodes of whatever else runs, allocates nothing, and is late only behind a blocking call. Behind it the driver's own
buffer holds 0.51 s, and before a call that is longer, `brace` hands it room for as much again. Of what comes beyond
that the driver drops the oldest without a word, so the samples of a recording are counted against the time that it
took, and the difference is reported.

Where eight handlers wait already behind a blocking call, as for the edges of a button that bounces, the chip drops the
call of this one (MICROPY_SCHEDULER_DEPTH of the ESP32 port), and no other would come. So the last frame of what the
driver is to fill is marked, and `look` and `begin` see for themselves whether the mark is gone.

A recording is a range of the ring. Until `free` gives them up its blocks are not overwritten: when nothing but such
blocks is left, new ones are dropped.

Why neither asyncio's StreamReader nor flash writes while recording: micropython issue 16029, pull request 14176.
"""

import asyncio
from array import array

from device.ticks import diff

from pendant import adpcm

GAIN_BITS = 2  # 12 dB: full scale at 108 dB SPL, a shout into the INMP441 (-26 dBFS at 94 dB SPL)
LONGEST_S = 600  # of one recording
LEAST_BLOCKS = 64  # 2 s: less memory than that is no pendant
PRE_ROLL_BLOCKS = 4  # 126 ms, kept from before the press: its handler may wait for a flash erase or a collection
_BLOCKED_MS = 100  # without a block for so long, a blocking call held the interpreter, and the button's handler too
BRACE_BLOCKS = 16  # 0.5 s
_AT_ONCE_MS = 15  # handlers that a blocking call held up run within this time of each other
# The INMP441 takes 2^18 of its clock cycles to start up, whether its power was off or its clock: 4096 frames. 64 more,
# for the filter and the beginning of a frame, make 8 blocks and this many frames: 260 ms.
_SETTLING_BLOCKS = 8
_SETTLING_FRAMES = 120
_TIMES = 32  # blocks whose time of arrival is remembered; a power of two
_WINDOW = 4  # of them are looked at to tell lateness from loss
_LEAST_LOSS_MS = 24  # less is lateness: the driver hands out descriptors of 16 ms
_STALLED_MS = 2000


def _mark(words):
    """Puts into the last frame what is not sound: full scale but for some bits. Where it is, in one frame of 2^32, the
    microphone stalls once. Allocates nothing, which a slice would.
    """
    words[-4] = words[-2] = 0xA5
    words[-3] = 0x5A
    words[-1] = 0x7F


def _marked(words) -> bool:
    return words[-1] == 0x7F and words[-2] == 0xA5 and words[-3] == 0x5A and words[-4] == 0xA5


def _ms(blocks):
    """Blocks to milliseconds: one is 31.5625."""
    return blocks * adpcm.BLOCK_SAMPLES * 1000 // adpcm.SAMPLE_RATE_HZ


class Take:
    """A finished recording: `blocks` blocks of the ring from number `first` on, which began at `start` (ticks_ms) and
    lacks `lost` samples: to 24 ms, which is as much as blocks may be late, or to 80 ms (simulated) where it began while
    the flash was being written. `stamp`: what is known of that time (pendant.times), filled in by the application.
    """

    def __init__(self, first: int, blocks: int, start: int, lost: int):
        self.first = first
        self.blocks = blocks
        self.start = start
        self.lost = lost
        self.stamp: dict = {}


class Microphone:
    """`open_i2s()` makes the machine.I2S, and is called again after a sleep or a stall; `memory`: the ring, a bytearray
    of at least 64 blocks of 256 bytes; `ticks_ms`: time.ticks_ms; `power`: a Pin that feeds the microphone, or None.
    """

    def __init__(self, open_i2s, memory, ticks_ms, power=None):
        self.total = 0  # blocks encoded so far: the number of the next one
        self._open_i2s = open_i2s
        self._power = power
        self._ticks_ms = ticks_ms
        self._view = memoryview(memory)
        self._capacity = len(memory) // adpcm.BLOCK_BYTES
        self._memory = memory
        # Which the driver fills: two in turn, and the long one of `brace`. And the same in pieces of a block.
        sizes = (adpcm.FRAMES_BYTES, adpcm.FRAMES_BYTES, adpcm.FRAMES_BYTES * BRACE_BLOCKS)
        self._words = tuple(memoryview(bytearray(size_bytes)) for size_bytes in sizes)
        self._pieces = tuple(
            tuple(words[at : at + adpcm.FRAMES_BYTES] for at in range(0, len(words), adpcm.FRAMES_BYTES))
            for words in self._words
        )
        self._short = self._words[0][: _SETTLING_FRAMES * 4]
        self._filling = 0
        self._wanted = self._short  # what the driver was told to fill
        self._taking = False
        self._bracing = False
        self._samples = array("h", (0 for _ in range(adpcm.BLOCK_SAMPLES)))
        self._gain_bits = GAIN_BITS
        self._state = adpcm.new_state(GAIN_BITS)
        self._times = array("i", (0 for _ in range(_TIMES)))
        self._settling = 0
        self._fresh = 0  # no block before this one joins on to those after it
        self._kept = -1  # the oldest block that must not be overwritten
        self._limit = -1  # the block before which the present recording must end
        self._first = -1  # of the present recording
        self._taken = 0  # the end of the last recording
        self._start = None  # ticks_ms of the present recording's first sample, once known
        self._asked = 0  # ticks_ms of the press
        self._i2s = None

    def start(self, i2s=None):
        """Begin to listen. The first 260 ms are dropped. `i2s`: one that `open_i2s` has made already."""
        self._state = adpcm.new_state(self._gain_bits)
        self._settling = _SETTLING_BLOCKS + 1
        self._filling = 0
        self._bracing = False
        self._fresh = self.total
        self._alive = self._ticks_ms()
        if i2s is None:
            if self._power is not None:
                self._power.value(1)
            i2s = self._open_i2s()
        self._i2s = i2s
        i2s.irq(self._filled)
        self._ask_for(self._short)

    def stop(self):
        """Listen no more; what was recorded stays."""
        if self._i2s is not None:
            self._i2s.deinit()
            self._i2s = None
        if self._power is not None:
            self._power.value(0)

    async def brace(self):
        """Before a call that may hold the interpreter for longer than the driver's buffer lasts (0.51 s), and for a
        second at most: when this returns, after 0.1 s at most, the driver is filling a buffer of 0.5 s, before its own.
        Until that is full no block comes. On the chip a task of the driver's fills it whatever the interpreter does
        (its source says so; not tried).
        """
        self._bracing = self._i2s is not None
        try:
            for _ in range(20):
                if not self._bracing:
                    return
                await asyncio.sleep(0.005)
        finally:  # a press, or nothing comes from it
            self._bracing = False

    @property
    def gain_bits(self) -> int:
        return self._gain_bits

    def set_gain(self, gain_bits: int):
        """From the next `start` on. ValueError where the codec cannot."""
        adpcm.new_state(gain_bits)
        self._gain_bits = gain_bits

    @property
    def valid(self) -> bool:
        """Samples are coming in, and they are the room's."""
        return self.total > self._fresh

    @property
    def recording(self) -> bool:
        return self._first >= 0

    def room(self) -> int:
        """Blocks that a recording begun now could have."""
        kept = self.total - self._kept if self._kept >= 0 else 0
        return max(0, self._capacity - kept - 1)

    def begin(self, at: int, most_blocks: int):
        """Record from the moment `at` (ticks_ms, not longer ago than a second) on, and 126 ms from before it.

        If `at` is the end of a time in which the interpreter was held (a TLS handshake), the press may have been at any
        moment of it: then from its beginning, as far as the driver kept it.
        """
        self._filled(self._i2s)
        oldest = max(self._fresh, self._taken, self.total - _TIMES + 1)
        for block in range(oldest + 1, self.total):
            before = self._times[(block - 1) % _TIMES]
            after = self._times[block % _TIMES]
            if diff(after, before) > _BLOCKED_MS and diff(at, before) > 0 and diff(after, at) > -_AT_ONCE_MS:
                at = before
                break
        first = self.total
        while first > oldest and diff(self._began(first, first - 1), at) + _ms(PRE_ROLL_BLOCKS) > 0:
            first -= 1
        self._start = self._began(first, first) if first < self.total else None
        if self._start is not None and first > oldest:
            before = self._times[(first - 1) % _TIMES]  # when the block before it had ended, at the latest
            if diff(before, self._start) < 0:
                self._start = before
        self._asked = at
        if self._kept < 0:
            self._kept = first
        self._limit = first + most_blocks
        self._first = first

    def look(self):
        """To be called every 100 ms or so. Returns None, "limit" when the recording has used up its room, or "stalled"
        when no block has come for two seconds: then the microphone was started anew.
        """
        self._filled(self._i2s)
        if self._first >= 0 and self.total >= self._first + _WINDOW:
            start = self._began(self._first, max(self._first, self.total - _TIMES + 1))
            if self._start is None or diff(start, self._start) < 0:
                self._start = start
        if self._i2s is not None and diff(self._ticks_ms(), self._alive) > _STALLED_MS:
            self.stop()
            self.start()
            return "stalled"
        return "limit" if self._first >= 0 and self.total >= self._limit else None

    def drop(self):
        """End the recording, at once, and forget it."""
        if self.total == self._limit:
            self._fresh = self.total  # some were dropped since
        self._first = self._limit = -1

    async def end(self, at: int):
        """End the recording with the block of the moment `at` (ticks_ms). Returns a Take, None if nothing was heard."""
        if self._first < 0:
            return None
        settled = min(self.total + _WINDOW + 1, self._limit)  # lateness can be told from loss by then, 0.2 s at most
        for turn in range(100):  # 2 s at most, then the microphone has failed and what is there is all there is
            self.look()
            start = self._asked if self._start is None else self._start
            lost_ms = self._lost_ms()
            # What was lost is in no block: counting it, too, would take what comes after `at` from the next recording.
            blocks = (diff(at, start) - lost_ms) * adpcm.SAMPLE_RATE_HZ // (adpcm.BLOCK_SAMPLES * 1000) + 1
            blocks = max(_WINDOW, min(blocks, self._limit - self._first))
            if self.total >= self._first + blocks and (lost_ms == 0 or self.total >= settled or turn >= 10):
                break
            await asyncio.sleep(0.02)
        first, self._first = self._first, -1
        blocks = min(blocks, self.total - first)
        if self.total == self._limit:
            self._fresh = self.total  # some were dropped since
        self._limit = -1
        self._taken = first + blocks
        if blocks <= 0:
            return None
        return Take(first, blocks, start, lost_ms * adpcm.SAMPLE_RATE_HZ // 1000)

    def piece(self, first: int, most_blocks: int):
        """A view of up to `most_blocks` blocks from `first` on, as many as lie in one piece of the ring."""
        slot = first % self._capacity
        count = min(most_blocks, self._capacity - slot)
        return self._view[slot * adpcm.BLOCK_BYTES : (slot + count) * adpcm.BLOCK_BYTES]

    def free(self, before=None):
        """The blocks before this number are needed no more; None: all but those of the present recording."""
        self._kept = self._first if before is None else before

    def _lost_ms(self):
        """How much of the present recording is missing: so much later the last blocks came than they would have."""
        if self._start is None or self.total <= self._first:
            return 0
        late_ms = diff(self._began(self._first, max(self._first, self.total - _WINDOW)), self._start)
        return late_ms if late_ms >= _LEAST_LOSS_MS else 0

    def _began(self, first, since):
        """When block `first` began, ticks_ms, told from the arrival of the blocks from `since` on (31 of them at most).

        A block arrives when its last sample is taken or, behind a blocking call, later; and a loss makes all that come
        after it late for good. So the least late of them tells, and tells best when nothing was lost among them.
        """
        least = self._times[since % _TIMES] - _ms(since + 1 - first)
        for block in range(since + 1, self.total):
            began = self._times[block % _TIMES] - _ms(block + 1 - first)
            if diff(began, least) < 0:
                least = began
        return least

    def _ask_for(self, words):
        self._wanted = words
        _mark(words)
        self._i2s.readinto(words)

    def _filled(self, i2s):
        """The I2S handler: `self._words[self._filling]` may be full (its beginning, at first). Allocates nothing."""
        if i2s is None or i2s is not self._i2s:  # stopped since
            return
        if self._taking:  # the one in the middle of which this comes has it, or the next `look`
            return
        self._taking = True  # before the mark is read: the other may come between any two steps
        try:
            if not _marked(self._wanted):
                self._take_all()
        finally:
            self._taking = False

    def _take_all(self):
        pieces = self._pieces[self._filling]
        self._filling = 1 if self._filling == 0 else 0
        if self._bracing and not self._settling:
            self._filling = 2
            self._bracing = False
        self._ask_for(self._words[self._filling])
        now = self._ticks_ms()
        self._alive = now
        if self._settling:
            self._settling -= 1
            if self._settling == 0:  # begin with the offset that there is, not with one to be found out
                adpcm.settle(pieces[0], self._state)
            return
        for words in pieces:
            self._take(words, now)

    def _take(self, words, now):
        adpcm.condition(words, self._samples, self._state)
        total = self.total
        if total == self._limit or (self._kept >= 0 and total - self._kept >= self._capacity):
            if self._first < 0:
                self._fresh = total
            return
        self._state[adpcm.OFFSET] = total % self._capacity * adpcm.BLOCK_BYTES
        adpcm.encode(self._samples, self._memory, self._state)
        self._times[total % _TIMES] = now
        self.total = total + 1
