"""The encoder's two inner loops in plain Python: the twin of `adpcm_viper`, for boards without viper."""

from pendant.adpcm import BLOCK_SAMPLES, DC, DC_ZERO, INDEX, OFFSET, SHIFT, STEPS


def condition(frames, samples, state):
    """One block of an INMP441's words to 16-bit samples: gain, offset removed, saturated.

    frames: 505 little-endian words, 24 bits in the upper three bytes. samples: array("h") of 505, written. The offset
    is followed by a one-pole filter with a time constant of 512 samples (32 ms: 5 Hz).
    """
    dc = state[DC] - DC_ZERO
    shift = state[SHIFT]
    for i in range(BLOCK_SAMPLES):
        at = 4 * i
        sample = frames[at + 3] << 16 | frames[at + 2] << 8 | frames[at + 1]
        if sample >= 0x800000:
            sample -= 0x1000000
        sample >>= shift
        offset = dc >> 9
        dc += sample - offset
        samples[i] = max(-32768, min(32767, sample - offset))
    state[DC] = dc + DC_ZERO


def encode(samples, out, state):
    """One block of 16-bit samples to 256 bytes.

    samples: array("h") of 505. out: bytearray, written from the state's offset on. The block's head holds the first
    sample and the step index, so it decodes without what came before it. The predictor is the decoder's, clamped.
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
        step = STEPS[index]
        error = samples[i] - predicted
        code = 0
        if error < 0:
            code = 8
            error = -error
        change = step >> 3
        for bit in (4, 2, 1):
            if error >= step:
                code |= bit
                error -= step
                change += step
            step >>= 1
        predicted = max(-32768, predicted - change) if code & 8 else min(32767, predicted + change)
        index = min(88, index + 2 * (code & 3) + 2) if code & 4 else max(0, index - 1)
        if i & 1:
            out[at] = code
        else:
            out[at] |= code << 4
            at += 1
    state[INDEX] = index
