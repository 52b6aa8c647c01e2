"""The encoder's two inner loops in viper; what they do is said in `adpcm_plain`, their twin.

Viper's integers wrap at 32 bits on the chip: nothing here comes near it. Its pointers read without the sign.
"""

import micropython
from pendant.adpcm import STEPS


@micropython.viper
def condition(frames: ptr16, samples: ptr16, state: ptr32):  # noqa: F821
    dc = int(state[2]) - 0x20000000
    shift = int(state[3])
    i = 0
    while i < 505:
        sample = int(frames[i + i + 1])
        if sample >= 0x8000:
            sample -= 0x10000
        sample = ((sample << 8) | (int(frames[i + i]) >> 8)) >> shift
        offset = dc >> 9
        dc += sample - offset
        sample -= offset
        if sample > 32767:
            sample = 32767
        elif sample < -32768:
            sample = -32768
        samples[i] = sample
        i += 1
    state[2] = dc + 0x20000000


@micropython.viper
def encode(samples: ptr16, out: ptr8, state: ptr32):  # noqa: F821
    steps = ptr16(STEPS)  # noqa: F821
    index = int(state[0])
    at = int(state[1])
    predicted = int(samples[0])
    out[at] = predicted
    out[at + 1] = predicted >> 8
    out[at + 2] = index
    out[at + 3] = 0
    at += 4
    if predicted >= 0x8000:
        predicted -= 0x10000
    low = 0
    i = 1
    while i < 505:
        sample = int(samples[i])
        if sample >= 0x8000:
            sample -= 0x10000
        step = int(steps[index])
        change = step >> 3
        error = sample - predicted
        code = 0
        if error < 0:
            code = 8
            error = 0 - error
        if error >= step:
            code |= 4
            error -= step
            change += step
        step >>= 1
        if error >= step:
            code |= 2
            error -= step
            change += step
        step >>= 1
        if error >= step:
            code |= 1
            change += step
        if code & 8:
            predicted -= change
            if predicted < -32768:
                predicted = -32768
        else:
            predicted += change
            if predicted > 32767:
                predicted = 32767
        if code & 4:
            index += ((code & 3) + 1) << 1
            if index > 88:
                index = 88
        elif index > 0:
            index -= 1
        if i & 1:
            low = code
        else:
            out[at] = low | (code << 4)
            at += 1
        i += 1
    state[0] = index
