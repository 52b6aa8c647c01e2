"""The encoder's two inner loops in viper; what they do is said in `adpcm_plain`, their twin.

Made for few machine instructions, which `make bench` counts. Viper keeps the first two or three arguments in registers
and all else in memory: so the inner functions begin with what they use most, whatever is passed there. Its cheapest
comparison is a shift by 16, which tells of a number of 17 bits and a sign whether it is within 0 to 65535: so
samples are offset by 32768 in here. And what follows from a step index and a code is looked up.

Viper's integers wrap at 32 bits on the chip: nothing here comes near it. Its pointers read without the sign.
"""

from array import array

import micropython

from pendant.adpcm import STEPS

# A row of 32 for each step index, four for each size of a code, 0 to 7: the least error that has it, what it changes
# the predictor by, where in here the row of the next step index is (bytes), and the size itself.
_ROWS = array("H", (0 for _ in range(32 * 89)))


@micropython.viper
def _fill(rows: ptr16, steps: ptr16):  # noqa: F821
    index = 0
    while index < 89:
        step = int(steps[index])
        size = 0
        before = 0
        while size < 8:
            change = step >> 3
            after = index - 1
            if size & 4:
                change += step
                after = index + 2 + ((size & 3) << 1)
            if size & 2:
                change += step >> 1
            if size & 1:
                change += step >> 2
            if after < 0:
                after = 0
            if after > 88:
                after = 88
            rows[0] = (before + change + 1) >> 1 if size else 0
            rows[8] = change
            before = change
            rows[16] = after << 6
            rows[24] = size
            rows = ptr16(int(rows) + 2)  # noqa: F821
            size += 1
        rows = ptr16(int(rows) + 48)  # noqa: F821
        index += 1


_fill(_ROWS, STEPS)  # type: ignore[arg-type]


def condition(frames, samples, state):
    _condition(0, state[2], frames, samples, state)


def encode(samples, out, state):
    _encode(0, _ROWS, 0, samples, out, state)  # type: ignore[arg-type]


@micropython.viper
def _condition(sample: int, dc: int, frames: ptr16, samples: ptr16, state: ptr32):  # noqa: F821
    gain = int(state[3])
    left = 505
    while left:
        sample = (((frames[1] ^ 0x8000) << 4) | (frames[0] >> 12)) - (dc >> 9)
        dc += sample
        sample = (sample * gain >> 6) + 0x8000
        if sample >> 16:
            sample = 0 if sample < 0 else 0xFFFF
        samples[0] = sample ^ 0x8000
        frames = ptr16(int(frames) + 4)  # noqa: F821
        samples = ptr16(int(samples) + 2)  # noqa: F821
        left -= 1
    state[2] = dc


@micropython.viper
def _encode(error: int, row: ptr16, predicted: int, samples: ptr16, out: ptr8, state: ptr32):  # noqa: F821
    rows = int(row)
    row = ptr16(rows + (int(state[0]) << 6))  # noqa: F821
    out = ptr8(int(out) + int(state[1]))  # noqa: F821
    predicted = int(samples[0])
    out[0] = predicted
    out[1] = predicted >> 8
    out[2] = state[0]
    out[3] = 0
    out = ptr8(int(out) + 256)  # noqa: F821
    samples = ptr16(int(samples) + 2)  # noqa: F821
    predicted ^= 0x8000
    at = -252
    while at:
        error = (samples[0] ^ 0x8000) - predicted
        if error >> 16:
            error = -error
            if error >= row[4]:
                row = ptr16(int(row) + 8)  # noqa: F821
            if error >= row[2]:
                row = ptr16(int(row) + 4)  # noqa: F821
            if error >= row[1]:
                row = ptr16(int(row) + 2)  # noqa: F821
            low = row[24] | 8
            predicted -= row[8]
            if predicted >> 16:
                predicted = 0
        else:
            if error >= row[4]:
                row = ptr16(int(row) + 8)  # noqa: F821
            if error >= row[2]:
                row = ptr16(int(row) + 4)  # noqa: F821
            if error >= row[1]:
                row = ptr16(int(row) + 2)  # noqa: F821
            low = int(row[24])
            predicted += row[8]
            if predicted >> 16:
                predicted = 0xFFFF
        row = ptr16(rows + row[16])  # noqa: F821
        error = (samples[1] ^ 0x8000) - predicted
        if error >> 16:
            error = -error
            if error >= row[4]:
                row = ptr16(int(row) + 8)  # noqa: F821
            if error >= row[2]:
                row = ptr16(int(row) + 4)  # noqa: F821
            if error >= row[1]:
                row = ptr16(int(row) + 2)  # noqa: F821
            high = row[24] | 8
            predicted -= row[8]
            if predicted >> 16:
                predicted = 0
        else:
            if error >= row[4]:
                row = ptr16(int(row) + 8)  # noqa: F821
            if error >= row[2]:
                row = ptr16(int(row) + 4)  # noqa: F821
            if error >= row[1]:
                row = ptr16(int(row) + 2)  # noqa: F821
            high = int(row[24])
            predicted += row[8]
            if predicted >> 16:
                predicted = 0xFFFF
        row = ptr16(rows + row[16])  # noqa: F821
        samples = ptr16(int(samples) + 4)  # noqa: F821
        out[at] = (high * 16) | low
        at += 1
    state[0] = (int(row) - rows) >> 6
