"""IMA ADPCM in blocks of 256 bytes (505 samples at 16 kHz, 64.9 kbit/s), from the words of an INMP441.

Two steps, each of one block, with no allocation: `condition` makes 16-bit samples of the microphone's 32-bit words,
`encode` makes a block of them. Both are viper code in `adpcm_viper`, or its plain twin where there is no viper; tests
hold the two equal. All sizes and the table of steps are here. Layout and arithmetic: IMA "Recommended Practices for
Enhancing Digital Audio Compatibility", revision 3.00, and docs/protocol.md.
"""

from array import array

SAMPLE_RATE_HZ = 16000
BLOCK_SAMPLES = 505
BLOCK_BYTES = 256
FRAMES_BYTES = 4 * BLOCK_SAMPLES  # the microphone's words for one block

# fmt: off
STEPS: "array[int]" = array("H", (
    7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 21, 23, 25, 28, 31, 34, 37, 41, 45, 50, 55, 60, 66, 73, 80, 88, 97, 107,
    118, 130, 143, 157, 173, 190, 209, 230, 253, 279, 307, 337, 371, 408, 449, 494, 544, 598, 658, 724, 796, 876, 963,
    1060, 1166, 1282, 1411, 1552, 1707, 1878, 2066, 2272, 2499, 2749, 3024, 3327, 3660, 4026, 4428, 4871, 5358, 5894,
    6484, 7132, 7845, 8630, 9493, 10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794,
    32767,
))
# fmt: on

# A codec's state is an array("i") of these; none is ever negative, because viper's ptr32 does not extend the sign on
# a 64-bit host.
INDEX = 0  # step index, 0 to 88
OFFSET = 1  # where in the output the next block goes, bytes
DC = 2  # the offset in the upper 20 bits of the words, times 512, plus DC_ZERO
GAIN = 3  # from those 20 bits to a sample's 16, times 64
DC_ZERO = 1 << 28


def new_state(gain_bits: int):
    """A fresh state. `gain_bits`: gain in steps of 6 dB, -2 to 6."""
    if not -2 <= gain_bits <= 6:
        raise ValueError("gain_bits is %d, not -2 to 6" % gain_bits)
    return array("i", (0, 0, DC_ZERO, 1 << (gain_bits + 2)))


def settle(frames, state):
    """Begin with the offset that the last of these words has, instead of finding it out over the next 0.1 s."""
    state[DC] = ((frames[-1] ^ 0x80) << 12 | frames[-2] << 4 | frames[-3] >> 4) << 9


try:
    from pendant.adpcm_viper import condition, encode
except (ImportError, SyntaxError):  # CPython; a MicroPython without the viper emitter
    from pendant.adpcm_plain import condition, encode

__all__ = ["condition", "encode"]
