"""The little signal processing that is needed, in numpy alone: resampling, convolution, first-order filters.

All take and give (n,) float32.
"""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

# Zero crossings on each side, and Kaiser's beta: the window that scipy's `resample_poly` has by default too.
_CROSSINGS = 10
_KAISER_BETA = 5.0
_NEGLIGIBLE = 1e-6


def resampled(samples: Samples, up: int, down: int) -> Samples:
    """At `up / down` times the rate, through a windowed-sinc filter; (ceil(n * up / down),)."""
    if up == down:
        return samples
    rate = max(up, down)
    half = _CROSSINGS * rate
    steps = np.arange(-half, half + 1)
    kernel = np.sinc(steps / rate) * np.kaiser(2 * half + 1, _KAISER_BETA)
    kernel *= up / kernel.sum()
    # Output n lies at n * down on a grid `up` times finer than the input; there only every `up`-th tap of the
    # kernel meets an input sample.
    positions = np.arange(-(-len(samples) * up // down)) * down
    firsts = -((half - positions) // up)
    inputs = firsts[:, None] + np.arange(2 * half // up + 1)
    taps = positions[:, None] - inputs * up + half
    weights = np.where(taps >= 0, kernel[np.maximum(taps, 0)], 0)
    inside = (inputs >= 0) & (inputs < len(samples))
    values = np.where(inside, samples[np.clip(inputs, 0, len(samples) - 1)], 0)
    result: Samples = np.einsum("nt,nt->n", weights, values).astype(np.float32)
    return result


def convolved(samples: Samples, kernel: NDArray[np.floating]) -> Samples:
    """The first n samples of the convolution, by way of the frequencies."""
    size = 1 << (len(samples) + len(kernel) - 2).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(kernel, size)
    return np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)


def with_zero(samples: Samples, zero: float) -> Samples:
    """x[n] - zero * x[n - 1]: brighter for a positive zero, duller for a negative one."""
    return (samples - zero * np.concatenate([[0], samples[:-1]])).astype(np.float32)


def with_pole(samples: Samples, pole: float) -> Samples:
    """y[n] = x[n] + pole * y[n - 1], for 0 < pole < 1: duller, the nearer to 1 the more."""
    taps = int(np.log(_NEGLIGIBLE) / np.log(pole)) + 1
    return convolved(samples, pole ** np.arange(taps))
