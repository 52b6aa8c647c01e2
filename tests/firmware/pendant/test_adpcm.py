"""The encoder, on every interpreter: against the golden note, against the standard's decoder, and against its twin."""

import json
import struct
from array import array

try:
    from micropython import heap_lock, heap_unlock
except ImportError:  # CPython

    def heap_lock():
        pass

    heap_unlock = heap_lock

from pendant import adpcm, adpcm_plain

BLOCK = adpcm.BLOCK_SAMPLES
VECTORS = __file__.rsplit("/", 3)[0] + "/vectors/"


def noise(seed):
    """An endless row of integers from 0 to 2^24 - 1, the same on every interpreter."""
    while True:
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        yield seed >> 7


def change(index, code):
    step = adpcm.STEPS[index]
    parts = ((4, step), (2, step >> 1), (1, step >> 2))
    return (step >> 3) + sum(part for bit, part in parts if code & bit)


def decoded(predictor, index, code):
    """The standard's decoder: what one code does to (predictor, step index)."""
    predictor = predictor - change(index, code) if code & 8 else predictor + change(index, code)
    index += (-1, -1, -1, -1, 2, 4, 6, 8)[code & 7]
    return max(-32768, min(32767, predictor)), max(0, min(88, index))


def decode(block):
    predictor, index, zero = struct.unpack("<hBB", block[:4])
    assert zero == 0
    samples = [predictor]
    for byte in block[4:]:
        for code in (byte & 15, byte >> 4):
            predictor, index = decoded(predictor, index, code)
            samples.append(predictor)
    return samples


def encoded(samples, index=0, encode=adpcm.encode):
    state = adpcm.new_state(0)
    state[adpcm.INDEX] = index
    out = bytearray(adpcm.BLOCK_BYTES)
    encode(array("h", samples), out, state)
    return out


def words(samples_24):
    """24-bit samples as the microphone gives them."""
    return bytearray(b"".join(struct.pack("<i", sample << 8) for sample in samples_24))


def test_golden_note():
    with open(VECTORS + "note.json") as file:
        vector = json.load(file)
    pcm = bytes.fromhex(vector["samples_hex"])
    samples = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    blocks = len(samples) // BLOCK
    out = bytearray(blocks * adpcm.BLOCK_BYTES)
    state = adpcm.new_state(0)
    for block in range(blocks):
        state[adpcm.OFFSET] = block * adpcm.BLOCK_BYTES
        adpcm.encode(array("h", samples[block * BLOCK : (block + 1) * BLOCK]), out, state)
    assert bytes.fromhex(vector["file_hex"])[-len(out) :] == out


def test_step_table():
    # The standard's table is geometric: each step 1.1 times the one before, rounded.
    assert len(adpcm.STEPS) == 89 and adpcm.STEPS[0] == 7 and adpcm.STEPS[79] == 13899 and adpcm.STEPS[88] == 32767
    for before, step in zip(adpcm.STEPS[:-1], adpcm.STEPS[1:]):
        assert abs(step - before * 1.1) <= 1 + before / 500, (before, step)


def test_every_step_and_nibble():
    unreachable = []
    for index in range(89):
        for code in range(16):
            # The least error that has this code, half-way from the next smaller one; a negative one is at least 1.
            least = 0
            if code & 7:
                least = (change(index, (code & 7) - 1) + change(index, code & 7) + 1) >> 1
            if code == 8:
                least = 1
                if adpcm.STEPS[index] >> 2 == 1:  # an error of 1 has a code of its own already
                    unreachable.append(index)
                    continue
            start = 32767 if code & 8 else -32768  # so that the widest steps fit
            target = start - least if code & 8 else start + least
            predicted, _ = decoded(start, index, code)
            block = encoded([start, target, predicted] + [predicted] * (BLOCK - 3), index)
            assert block[4] & 15 == code, (index, code, block[4] & 15)
            # The encoder's predictor is the decoder's: no error gives code 0, one less gives a negative code.
            assert block[4] >> 4 == 0, (index, code)
            if predicted > -32768:
                block = encoded([start, target, predicted - 1] + [predicted] * (BLOCK - 3), index)
                assert block[4] >> 4 & 8, (index, code)
    assert unreachable == [0]


def test_clamp_at_both_ends():
    for index in range(89):
        for start, target in ((32700, 32767), (-32700, -32768), (20000, 32767), (-20000, -32768)):
            block = encoded([start] + [target] * (BLOCK - 1), index)
            assert all(-32768 <= sample <= 32767 for sample in decode(block))
            assert abs(decode(block)[-1] - target) <= 16, (index, start)


def test_full_scale_square_resynchronises():
    for half_period in (1, 2, 7, 40, 252):
        samples = [32767 if i // half_period % 2 else -32768 for i in range(BLOCK)]
        result = decode(encoded(samples))
        if half_period >= 40:  # given time, the decoder arrives at each level
            for i in range(3 * half_period - 1, BLOCK, half_period):
                assert abs(result[i] - samples[i]) < 4500, (half_period, i, result[i])
        # Silence after it is reached again, whatever went before.
        assert abs(decode(encoded(samples[:200] + [0] * (BLOCK - 200)))[-1]) <= 16


def test_twins_are_equal():
    random = noise(3)
    for gain_bits in range(-2, 7):
        state, twin = adpcm.new_state(gain_bits), adpcm.new_state(gain_bits)
        for scale in (0, 6, 12, 18, 0):
            frames = words([((next(random) - (1 << 23)) >> scale) + (scale << 10) for _ in range(BLOCK)])
            samples, twins = array("h", [0] * BLOCK), array("h", [0] * BLOCK)
            adpcm.condition(frames, samples, state)
            adpcm_plain.condition(frames, twins, twin)
            assert samples == twins
            out, out_twin = bytearray(adpcm.BLOCK_BYTES), bytearray(adpcm.BLOCK_BYTES)
            adpcm.encode(samples, out, state)
            adpcm_plain.encode(twins, out_twin, twin)
            assert out == out_twin
            assert list(state) == list(twin)


def test_blocks_lie_where_the_state_says():
    out = bytearray(b"\xaa" * (3 * adpcm.BLOCK_BYTES))
    state = adpcm.new_state(0)
    state[adpcm.OFFSET] = adpcm.BLOCK_BYTES
    adpcm.encode(array("h", [1000] * BLOCK), out, state)
    assert out[: adpcm.BLOCK_BYTES] == b"\xaa" * adpcm.BLOCK_BYTES == out[2 * adpcm.BLOCK_BYTES :]
    assert struct.unpack("<h", out[256:258])[0] == 1000


def test_gain_and_saturation():
    for gain_bits in range(-2, 7):
        state = adpcm.new_state(gain_bits)
        samples = array("h", [0] * BLOCK)
        # Alternating, so that the offset stays at nothing: -8388608 to 8388607 is the microphone's full scale.
        adpcm.condition(words([25600 if i & 1 else -25600 for i in range(BLOCK)]), samples, state)
        expected = 100 << gain_bits if gain_bits >= 0 else 100 >> -gain_bits
        for sample in samples:  # the offset that is followed has moved by up to two of the 20 bits
            assert abs(abs(sample) - expected) <= 1 + (expected >> 6), (gain_bits, sample)
        adpcm.condition(words([8388607 if i & 1 else -8388608 for i in range(BLOCK)]), samples, state)
        full = 32767 >> max(0, -gain_bits)
        assert max(samples) > full - full // 40 and min(samples) < full // 40 - full, gain_bits
        if gain_bits > 0:
            assert max(samples) == 32767 and min(samples) == -32768


def test_settled_on_the_offset_from_the_first_sample_on():
    for offset in (-8388608, -200000, -16, 0, 4096, 8388607):
        state = adpcm.new_state(6)
        frames = words([offset] * BLOCK)
        adpcm.settle(frames, state)
        samples = array("h", [0] * BLOCK)
        adpcm.condition(frames, samples, state)
        assert max(samples) == min(samples) == 0, offset


def test_offset_is_removed():
    state = adpcm.new_state(2)
    samples = array("h", [0] * BLOCK)
    last = []
    for _ in range(16):  # 505 ms, 16 time constants
        adpcm.condition(words([200000] * BLOCK), samples, state)
        last.append(abs(samples[-1]))
    assert last[0] > 500 and last[-1] <= 1, last


def test_nothing_is_allocated():
    state, frames = adpcm.new_state(2), words([i * 9000 for i in range(BLOCK)])
    samples, out = array("h", [0] * BLOCK), bytearray(2 * adpcm.BLOCK_BYTES)
    state[adpcm.OFFSET] = adpcm.BLOCK_BYTES
    heap_lock()
    try:
        adpcm.settle(frames, state)
        for _ in range(3):
            adpcm.condition(frames, samples, state)
            adpcm.encode(samples, out, state)
    finally:
        heap_unlock()
    assert any(out)


def test_gain_out_of_range_is_refused():
    for gain_bits in (-3, 7):
        try:
            adpcm.new_state(gain_bits)
        except ValueError as e:
            assert str(gain_bits) in str(e)
        else:
            raise AssertionError(gain_bits)
