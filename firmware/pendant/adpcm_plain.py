"""The encoder's two inner loops in plain Python: the twin of `adpcm_viper`, for boards without viper."""

from array import array

from pendant.adpcm import BLOCK_SAMPLES, DC, GAIN, INDEX, OFFSET, STEPS


def _change(step, size):
    return (step >> 3) + (step if size & 4 else 0) + (step >> 1 if size & 2 else 0) + (step >> 2 if size & 1 else 0)


# For each step and each size of a code, 0 to 7: what it changes the predictor by, and the least error that has it:
# half-way between its change and that of the size below.
_CHANGES = array("H", (_change(step, size) for step in STEPS for size in range(8)))
_LEASTS = array(
    "H",
    ((_change(step, size - 1) + _change(step, size) + 1) >> 1 if size else 0 for step in STEPS for size in range(8)),
)


def condition(frames, samples, state):
    """One block of an INMP441's words to 16-bit samples: offset removed, gain, saturated.

    frames: 505 little-endian words, 24 bits in the upper three bytes, of which 20 are used: the microphone's noise is
    in the twelfth. samples: array("h") of 505, written. The offset is followed by a one-pole filter with a time
    constant of 512 samples (32 ms: 5 Hz), before the gain, so that a change of the gain leaves it as it is.
    """
    dc = state[DC]
    gain = state[GAIN]
    for i in range(BLOCK_SAMPLES):
        at = 4 * i
        sample = ((frames[at + 3] ^ 0x80) << 12 | frames[at + 2] << 4 | frames[at + 1] >> 4) - (dc >> 9)
        dc += sample
        samples[i] = max(-32768, min(32767, sample * gain >> 6))
    state[DC] = dc


def encode(samples, out, state):
    """One block of 16-bit samples to 256 bytes.

    samples: array("h") of 505. out: bytearray, written from the state's offset on. The block's head holds the first
    sample and the step index, so it decodes without what came before it. The predictor is the decoder's, clamped; the
    code is the one that comes nearest to the sample.
    """
    at = state[OFFSET]
    index = state[INDEX]
    predicted = samples[0]
    out[at] = predicted & 0xFF
    out[at + 1] = predicted >> 8 & 0xFF
    out[at + 2] = index
    out[at + 3] = 0
    at += 4
    for i in range(1, BLOCK_SAMPLES):
        error = samples[i] - predicted
        code = 0
        if error < 0:
            code = 8
            error = -error
        first = row = 8 * index
        for bit in (4, 2, 1):
            if error >= _LEASTS[row + bit]:
                row += bit
        code |= row - first
        change = _CHANGES[row]
        predicted = max(-32768, predicted - change) if code & 8 else min(32767, predicted + change)
        index = min(88, index + 2 * (code & 3) + 2) if code & 4 else max(0, index - 1)
        if i & 1:
            out[at] = code
        else:
            out[at] |= code << 4
            at += 1
    state[INDEX] = index
