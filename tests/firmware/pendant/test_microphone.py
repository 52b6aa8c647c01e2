"""The microphone over an I2S that hands out what the test wants, when it wants."""

import asyncio
import struct
import sys

try:
    from micropython import heap_lock, heap_unlock
except ImportError:  # CPython

    def heap_lock():
        pass

    heap_unlock = heap_lock

from pendant import adpcm, microphone
from pendant.microphone import Microphone

PERIOD = 1 << 30
BLOCK = adpcm.BLOCK_SAMPLES
SETTLING = 9  # pieces; the first is short
SETTLING_FRAMES = 4160


class I2S:
    def __init__(self):
        self.handler = self.buffer = None
        self.open = True

    def irq(self, handler):
        self.handler = handler

    def readinto(self, buffer):
        assert self.open
        self.buffer = buffer

    def deinit(self):
        self.open = False


CODEC = (adpcm.condition, adpcm.encode)
if not hasattr(sys.implementation, "_mpy"):  # CPython: a hundred times as slow, and the codec has tests of its own

    def condition(frames, samples, state):
        samples[0] = 250 if frames[3] < 128 else -250

    def encode(samples, out, state):
        struct.pack_into("<h", out, state[adpcm.OFFSET], samples[0])

    CODEC = (condition, encode)


class Bench:
    """A microphone with a ring of `blocks` blocks and a clock that the test moves. Block k holds samples of value k."""

    def __init__(self, blocks=100, begin=1000):
        self.begin = begin
        self.frames = 0  # that the microphone produced since it was started
        self.late_ms = self.held_until = 0
        self.opened = []
        self.go(begin)
        self.microphone = Microphone(self.open, bytearray(blocks * 256), lambda: self.ticks)
        self.microphone.start()

    def go(self, clock):
        self.clock = clock
        self.ticks = clock % PERIOD

    def open(self):
        self.opened.append(I2S())
        return self.opened[-1]

    def feed(self, blocks, lose_frames=0):
        """So many blocks arrive, each when its last frame was taken (and `late_ms` later, not before
        `held_until`)."""
        self.frames += lose_frames
        for _ in range(blocks):
            self.interrupt(self.fill())

    def fill(self):
        """A block arrives, and the interrupt that would tell of it is dropped."""
        i2s = self.opened[-1]
        frames = len(i2s.buffer) // 4
        self.frames += frames
        self.go(max(self.held_until, self.begin + self.frames // 16 + self.late_ms))
        level = 1000 if self.frames % 2 else -1000
        i2s.buffer[:] = struct.pack("<i", level << 8) * frames
        return i2s

    @staticmethod
    def interrupt(i2s):
        real = (adpcm.condition, adpcm.encode)
        adpcm.condition, adpcm.encode = CODEC
        heap_lock()
        try:
            i2s.handler(i2s)
        finally:
            heap_unlock()
            adpcm.condition, adpcm.encode = real

    def ready(self, blocks=20):
        self.feed(SETTLING + blocks)
        return self

    def end(self, at=None):
        return asyncio.run(self.microphone.end((self.clock - 5 if at is None else at) % PERIOD))


def test_the_start_up_is_dropped():
    bench = Bench()
    bench.feed(SETTLING)
    assert 2**18 / 64 <= bench.frames == SETTLING_FRAMES and bench.microphone.total == 0 and not bench.microphone.valid
    bench.feed(1)
    assert bench.microphone.total == 1 and bench.microphone.valid


def test_a_recording_holds_press_to_release():
    for begin in (1000, PERIOD - 1300):  # the second one wraps
        bench = Bench(begin=begin).ready()
        pressed = bench.clock
        bench.feed(1)
        bench.microphone.begin(pressed % PERIOD, 60)
        assert bench.microphone.recording
        bench.feed(40)
        released = bench.clock - 15
        take = bench.end(released)
        start = begin + (SETTLING_FRAMES + take.first * BLOCK) // 16
        assert abs((take.start - start + 5) % PERIOD - 5) <= 2, (take.start, start)
        assert start <= pressed and pressed - start <= 200
        assert start + take.blocks * BLOCK // 16 >= released and take.lost == 0
        assert not bench.microphone.recording


def test_a_press_that_is_seen_late_loses_nothing():
    bench = Bench().ready()
    pressed = bench.clock - 400
    bench.microphone.begin(pressed, 60)
    bench.feed(10)
    take = bench.end()
    assert bench.begin + (SETTLING_FRAMES + take.first * BLOCK) // 16 <= pressed


def test_pressed_during_a_blocking_call():
    """The button's handler ran only at its end; what the driver had kept by then belongs to the recording."""
    for held_ms, lost_frames in ((300, 0), (800, 4608)):  # beyond 8192 frames the driver drops the oldest
        bench = Bench(blocks=300).ready(30)
        began = bench.clock
        bench.held_until = began + held_ms
        bench.feed(1)
        bench.feed(1, lost_frames)
        bench.feed((held_ms * 16 - lost_frames) // BLOCK - 2)
        assert bench.clock == bench.held_until
        bench.microphone.begin(bench.clock, 200)  # as the handler saw it; in truth it was sooner
        for _ in range(5):
            bench.feed(10)
            bench.microphone.look()
        take = bench.end()
        assert began - 200 <= take.start <= began + 2, (take.start, began)
        assert abs(take.lost - lost_frames) <= 48, (take.lost, lost_frames)


def test_pressed_while_the_microphone_settles():
    bench = Bench()
    bench.feed(3)
    pressed = bench.clock
    bench.microphone.begin(pressed, 60)
    bench.feed(SETTLING - 3 + 30)
    take = bench.end()
    assert take.first == 0 and take.blocks == 30 and take.lost == 0
    assert abs(take.start - (bench.begin + SETTLING_FRAMES // 16)) <= 2


def test_loss_is_counted_and_lateness_is_not():
    for lost_frames in (0, 512, 1024, 8192):
        bench = Bench(blocks=300).ready()
        bench.microphone.begin(bench.clock, 250)
        for _ in range(10):
            bench.feed(10)
            bench.microphone.look()
        bench.late_ms = 300  # behind a blocking call
        bench.feed(3)
        bench.microphone.look()
        bench.late_ms = 0
        bench.feed(1, lost_frames)
        for _ in range(4):
            bench.feed(10)
            bench.microphone.look()
        take = bench.end(bench.clock - lost_frames // 16 - 5)
        assert abs(take.lost - lost_frames) <= 32, (take.lost, lost_frames)


def test_late_at_the_beginning_is_not_the_time_of_the_first_sample():
    bench = Bench().ready()
    pressed = bench.clock
    bench.late_ms = 400
    bench.feed(6)
    bench.microphone.begin(pressed + 30, 60)
    bench.microphone.look()
    bench.late_ms = 0
    bench.feed(20)
    take = bench.end()
    assert take.start <= pressed + 30 and take.lost == 0


def test_a_recording_with_a_loss_leaves_what_follows_to_the_next():
    bench = Bench().ready()
    bench.microphone.begin(bench.ticks, 60)
    bench.feed(10)
    bench.feed(20, lose_frames=6 * BLOCK)  # 189 ms
    released = bench.clock

    async def end():
        ending = asyncio.create_task(bench.microphone.end(released % PERIOD))
        for _ in range(8):
            await asyncio.sleep(0.03)
            bench.feed(1)
        return await ending

    take = asyncio.run(end())
    assert abs(take.lost - 6 * BLOCK) < 50
    first = take.first
    assert first + take.blocks <= 20 + 31, "it took what came after the release"
    bench.microphone.begin((released + 40) % PERIOD, 60)  # from 126 ms before, but not what the last recording has
    bench.feed(10)
    assert bench.end().first == first + take.blocks


def test_braced_it_outlasts_a_call_of_a_second():
    bench = Bench().ready()

    async def brace():
        bracing = asyncio.create_task(bench.microphone.brace())
        await asyncio.sleep(0)
        bench.feed(1)
        await asyncio.wait_for(bracing, 0.1)

    asyncio.run(brace())
    total = bench.microphone.total
    i2s = bench.opened[-1]
    assert len(i2s.buffer) == 16 * adpcm.FRAMES_BYTES
    pressed = bench.clock + 300
    bench.held_until = bench.clock + 1000
    bench.feed(1)
    assert bench.microphone.total == total + 16 and len(i2s.buffer) == adpcm.FRAMES_BYTES
    bench.microphone.begin(bench.ticks, 60)  # of a press that was seen when the call was over
    bench.feed(15)  # the driver's own buffer
    bench.held_until = 0
    bench.feed(10)
    take = bench.end()
    assert take.start - pressed % PERIOD <= -300 and take.lost == 0 and take.first + take.blocks >= total + 16 + 24
    asyncio.run(brace())  # and both of the short ones are in turn again
    bench.feed(4)
    assert bench.microphone.total == total + 41 + 1 + 16 + 3


def test_bracing_a_dead_microphone_ends():
    bench = Bench().ready()
    asyncio.run(asyncio.wait_for(bench.microphone.brace(), 1))
    bench.feed(1)
    assert len(bench.opened[-1].buffer) == adpcm.FRAMES_BYTES
    bench.microphone.stop()
    asyncio.run(asyncio.wait_for(bench.microphone.brace(), 0.05))


def test_bracing_that_a_press_ends_is_forgotten():
    bench = Bench().ready()

    async def press():
        bracing = asyncio.create_task(bench.microphone.brace())
        await asyncio.sleep(0.01)
        bracing.cancel()
        try:
            await bracing
        except asyncio.CancelledError:
            pass
        bench.feed(1)

    asyncio.run(press())
    assert len(bench.opened[-1].buffer) == adpcm.FRAMES_BYTES


def test_the_limit():
    bench = Bench().ready()
    bench.microphone.begin(bench.clock, 50)
    bench.feed(30)
    assert bench.microphone.look() is None
    bench.feed(200)
    assert bench.microphone.look() == "limit"
    take = bench.end()
    assert take.blocks == 50
    bench.microphone.free()
    bench.feed(1)
    bench.microphone.begin(bench.clock, 20)  # right after it: what was dropped meanwhile is not in the way
    bench.feed(15)
    take = bench.end()
    assert take.first == 66 and take.lost == 0 and take.blocks == 16


def test_kept_blocks_are_not_overwritten():
    bench = Bench(blocks=64).ready()
    microphone = bench.microphone
    assert microphone.room() == 63
    microphone.begin(bench.clock, microphone.room())
    bench.feed(30)
    take = bench.end()
    kept = bytes(microphone.piece(take.first, 1))
    marked = microphone.piece(take.first, 1)
    marked[4:8] = b"mark"
    bench.feed(500)
    assert bytes(microphone.piece(take.first, 1))[4:8] == b"mark" != kept[4:8]
    assert microphone.room() == 0
    microphone.free()
    assert microphone.room() == 63
    # After the gap a recording begins with what joins on, not with what is from before it.
    bench.feed(2)
    microphone.begin(bench.clock - 800, 40)
    bench.feed(20)
    later = bench.end()
    assert later.first >= take.first + 64 and later.lost == 0


def test_two_recordings_wait():
    bench = Bench(blocks=100).ready()
    microphone = bench.microphone
    takes = []
    for blocks in (20, 30):
        microphone.begin(bench.clock, microphone.room())
        bench.feed(blocks)
        takes.append(bench.end())
    assert takes[1].first >= takes[0].first + takes[0].blocks
    room = microphone.room()
    microphone.free(takes[1].first)
    assert microphone.room() >= room + takes[0].blocks - 1
    microphone.free()
    assert microphone.room() == 99


def test_pieces_lie_together_and_cover_all():
    bench = Bench(blocks=100).ready(80)
    bench.microphone.begin(bench.clock, 90)
    bench.feed(60)
    take = bench.end()
    at, sizes = take.first, []
    while at < take.first + take.blocks:
        piece = bench.microphone.piece(at, min(16, take.first + take.blocks - at))
        assert len(piece) % 256 == 0 and 0 < len(piece) <= 16 * 256
        sizes.append(len(piece) // 256)
        at += sizes[-1]
    assert sum(sizes) == take.blocks and min(sizes[:-1]) < 16  # one of them ended at the ring's end


def test_a_stall_starts_it_anew():
    bench = Bench().ready()
    bench.go(bench.clock + 1999)
    assert bench.microphone.look() is None
    bench.go(bench.clock + 2)
    assert bench.microphone.look() == "stalled"
    assert len(bench.opened) == 2 and not bench.opened[0].open and not bench.microphone.valid
    bench.begin, bench.frames = bench.clock, 0
    bench.feed(SETTLING + 1)
    assert bench.microphone.valid and bench.microphone.look() is None


def test_a_dropped_interrupt_is_made_up_for():
    bench = Bench().ready()
    i2s = bench.opened[-1]
    for see in (bench.microphone.look, lambda: bench.microphone.begin(bench.ticks, 60)):
        total, buffer = bench.microphone.total, i2s.buffer
        see()
        assert bench.microphone.total == total and i2s.buffer is buffer, "it took what was not full"
        bench.fill()
        see()
        assert bench.microphone.total == total + 1 and i2s.buffer is not buffer
        buffer = i2s.buffer
        bench.interrupt(i2s)  # and if it comes nevertheless
        assert bench.microphone.total == total + 1 and i2s.buffer is buffer
    bench.feed(30)
    assert bench.end().lost == 0


def test_an_interrupt_in_the_middle_of_making_up_for_one_waits():
    """Else its block would be encoded before the one that is being encoded."""
    bench = Bench().ready()
    total = bench.microphone.total
    real = adpcm.condition

    def interrupted(frames, samples, state):
        adpcm.condition = real
        bench.interrupt(bench.fill())
        real(frames, samples, state)

    bench.fill()
    adpcm.condition = interrupted
    try:
        bench.microphone.look()
    finally:
        adpcm.condition = real
    assert bench.microphone.total == total + 1
    bench.microphone.look()
    assert bench.microphone.total == total + 2


def test_an_interrupt_while_the_mark_is_read_takes_nothing_twice():
    bench = Bench().ready()
    total = bench.microphone.total
    real = microphone._marked

    def interrupted(words):
        microphone._marked = real
        marked = real(words)
        bench.interrupt(bench.opened[-1])
        return marked

    bench.fill()
    microphone._marked = interrupted
    try:
        bench.microphone.look()
    finally:
        microphone._marked = real
    assert bench.microphone.total == total + 1
    bench.fill()
    bench.microphone.look()
    assert bench.microphone.total == total + 2


def test_nothing_heard():
    bench = Bench()
    bench.microphone.begin(bench.clock, 60)
    bench.go(bench.clock + 1000)
    assert bench.end() is None
    assert not bench.microphone.recording
    assert bench.end() is None  # nor is there anything to end


def test_what_is_kept_decodes_to_what_was_heard():
    """Blocks lie in the ring in order: each one's head holds its first sample."""
    bench = Bench().ready()
    bench.microphone.begin(bench.clock, 60)
    bench.feed(20)
    take = bench.end()
    signs = []
    for block in range(take.first, take.first + take.blocks):
        signs.append(struct.unpack("<h", bytes(bench.microphone.piece(block, 1))[:2])[0] > 0)
    ends = [SETTLING_FRAMES + (block + 1) * BLOCK for block in range(take.first, take.first + take.blocks)]
    expected = [end % 2 == 1 for end in ends]
    assert signs == expected
