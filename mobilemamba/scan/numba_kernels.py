"""Numba kernels of the selective scan: one pass over the map, channels last, so that a pixel's channels fill vectors.

A task is a range of channels of one image, in all directions; tasks share nothing but their inputs. Exponential and
logarithm are written out, after Cephes (netlib.org/cephes, single precision): as calls of the C library they would keep
LLVM from making vector instructions of the loops. Comparisons are put so that NaN stays NaN.

Numba compiles a kernel when it is first called, in a few seconds, and keeps the result on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

LOG2_E = np.float32(1.44269504)
LN_2 = np.float32(0.693147181)
LN_2_HIGH = np.float32(0.693359375)  # few bits: its products with whole numbers are exact
LN_2_LOW = np.float32(-2.12194440e-4)
SMALLEST_EXPONENT = np.float32(-87.0)  # exp of it is just above the smallest normal float32
ROUNDER = np.float32(1.5 * 2**23)  # added to a small number, it leaves no bits for a fraction
EXPONENT_BIAS = np.int32(127 << 23)
MANTISSA_BITS = np.int32(23)
SQRT_2_LESS_1 = np.float32(0.414213562)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have Numba compile a function, and keep the result on disk where that is possible.

    Args:
        options: Of ``numba.njit``.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        except RuntimeError:  # no folder can be written
            return numba.njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


# Contraction to fused multiply-adds is all that rounding allows: sums in another order would undo the reduction of
# exponents.
in_order = compiled(fastmath={"contract", "nsz"})
reordered = compiled(fastmath={"contract", "nsz", "reassoc"})


@reordered
def total(values: Floats) -> np.float32:
    """Return the sum of a row."""
    result = ZERO
    for d in range(values.size):
        result += values[d]
    return result


@numba.njit(inline="always")
def exponential(x: np.float32) -> tuple[np.float32, np.float32]:
    """Return exp(x), for x of 0 at most, as two factors; of the second only the bits, see :func:`to_power`."""
    value = SMALLEST_EXPONENT if x < SMALLEST_EXPONENT else x
    rounded = value * LOG2_E + ROUNDER
    whole = rounded - ROUNDER
    rest = value - whole * LN_2_HIGH
    rest -= whole * LN_2_LOW
    poly = np.float32(1.9875691500e-4)
    poly = poly * rest + np.float32(1.3981999507e-3)
    poly = poly * rest + np.float32(8.3334519073e-3)
    poly = poly * rest + np.float32(4.1665795894e-2)
    poly = poly * rest + np.float32(1.6666665459e-1)
    poly = poly * rest + np.float32(5.0000001201e-1)
    return poly * (rest * rest) + rest + ONE, rounded


@numba.njit(inline="always")
def to_power(bits: np.int32) -> np.int32:
    """Return the bits of the power of two for the lowest bits of a rounded exponent."""
    return (bits << MANTISSA_BITS) + EXPONENT_BIAS


@numba.njit(inline="always")
def softplus(x: np.float32, small: np.float32) -> np.float32:
    """Return log(1 + exp(x)), given exp(-abs(x))."""
    # log(1 + small), relative to half where that brings the argument closer to 1.
    halved = small > SQRT_2_LESS_1
    rest = (small - ONE) * HALF if halved else small
    poly = np.float32(7.0376836292e-2)
    poly = poly * rest + np.float32(-1.1514610310e-1)
    poly = poly * rest + np.float32(1.1676998740e-1)
    poly = poly * rest + np.float32(-1.2420140846e-1)
    poly = poly * rest + np.float32(1.4249322787e-1)
    poly = poly * rest + np.float32(-1.6668057665e-1)
    poly = poly * rest + np.float32(2.0000714765e-1)
    poly = poly * rest + np.float32(-2.4999993993e-1)
    poly = poly * rest + np.float32(3.3333331174e-1)
    square = rest * rest
    logarithm = poly * (square * rest) - HALF * square + rest
    return (ZERO if x < ZERO else x) + (logarithm + LN_2 if halved else logarithm)


@in_order
def forward_tasks(
    u: Floats,
    logits: Floats,
    rate: Floats,
    B: Floats,
    C: Floats,
    skip: Floats,
    y: Floats,
    width: int,
    first: int,
    last: int,
) -> None:
    """Scan some channels of some images.

    Args:
        u: (G, L, D), G images of L pixels.
        logits: (K, G, L, D).
        rate: exp(A_log), (K, N, D).
        B: (G, K, N, L).
        C: (G, K, N, L).
        skip: D_skip summed over directions, (D,).
        y: (G, L, D), written.
        width: Channels of a task.
        first: Task to begin with: those of an image follow each other.
        last: Task to end before.
    """
    directions, states, channels = rate.shape
    length = u.shape[1]
    ranges = (channels + width - 1) // width
    for task in range(first, last):
        image, start = task // ranges, task % ranges * width
        size = min(width, channels - start)
        factor, power, step = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
        bits = power.view(np.int32)  # the same memory
        h = np.empty((states, size), np.float32)
        for pixel in range(length):
            for d in range(size):
                y[image, pixel, start + d] = skip[start + d] * u[image, pixel, start + d]
        for k in range(directions):
            h[:] = ZERO
            for t in range(length):
                pixel = t if k == 0 else length - 1 - t
                for d in range(size):
                    factor[d], power[d] = exponential(-abs(logits[k, image, pixel, start + d]))
                for d in range(size):
                    bits[d] = to_power(bits[d])
                for d in range(size):
                    step[d] = softplus(logits[k, image, pixel, start + d], factor[d] * power[d])
                for n in range(states):
                    for d in range(size):
                        factor[d], power[d] = exponential(-step[d] * rate[k, n, start + d])
                    for d in range(size):
                        bits[d] = to_power(bits[d])
                    b, c = B[image, k, n, pixel], C[image, k, n, pixel]
                    for d in range(size):
                        decay = factor[d] * power[d]
                        h[n, d] = decay * h[n, d] + step[d] * (b * u[image, pixel, start + d])
                        y[image, pixel, start + d] += c * h[n, d]


@in_order
def backward_tasks(
    dy: Floats,
    u: Floats,
    logits: Floats,
    rate: Floats,
    B: Floats,
    C: Floats,
    skip: Floats,
    du: Floats,
    dlogits: Floats,
    dA_log: Floats,
    dB: Floats,
    dC: Floats,
    dskip: Floats,
    width: int,
    first: int,
    last: int,
) -> None:
    """Write the gradients of some channels of some images; the states are computed again.

    Args:
        dy: Gradient of y, (G, L, D).
        u: As in :func:`forward_tasks`, like the next five.
        logits: See there.
        rate: See there.
        B: See there.
        C: See there.
        skip: See there.
        du: (G, L, D).
        dlogits: (K, G, L, D).
        dA_log: One part for each image, (G, K, N, D).
        dB: One part for each range of channels, (ranges, G, K, N, L).
        dC: Likewise.
        dskip: One part for each image, (G, D).
        width: As in :func:`forward_tasks`, like the next two.
        first: See there.
        last: See there.
    """
    directions, states, channels = rate.shape
    length = u.shape[1]
    ranges = (channels + width - 1) // width
    for task in range(first, last):
        image, part = task // ranges, task % ranges
        start = part * width
        size = min(width, channels - start)
        factor, power = np.empty(size, np.float32), np.empty(size, np.float32)
        product, dstep = np.empty(size, np.float32), np.empty(size, np.float32)
        bits = power.view(np.int32)  # the same memory
        # What the way back needs of every pixel, in scan order; pixel 0 of the states is before the first.
        step, slope = np.empty((length, size), np.float32), np.empty((length, size), np.float32)
        decay, h = np.empty((length, states, size), np.float32), np.empty((length + 1, states, size), np.float32)
        carried = np.empty((states, size), np.float32)
        for d in range(size):
            dskip[image, start + d] = ZERO
        for pixel in range(length):
            for d in range(size):
                gradient = dy[image, pixel, start + d]
                du[image, pixel, start + d] = skip[start + d] * gradient
                dskip[image, start + d] += gradient * u[image, pixel, start + d]
        for k in range(directions):
            h[0] = ZERO
            for t in range(length):
                pixel = t if k == 0 else length - 1 - t
                for d in range(size):
                    factor[d], power[d] = exponential(-abs(logits[k, image, pixel, start + d]))
                for d in range(size):
                    bits[d] = to_power(bits[d])
                for d in range(size):
                    logit, small = logits[k, image, pixel, start + d], factor[d] * power[d]
                    step[t, d] = softplus(logit, small)
                    slope[t, d] = (small if logit < ZERO else ONE) / (ONE + small)  # sigmoid(logit)
                for n in range(states):
                    for d in range(size):
                        factor[d], power[d] = exponential(-step[t, d] * rate[k, n, start + d])
                    for d in range(size):
                        bits[d] = to_power(bits[d])
                    b = B[image, k, n, pixel]
                    for d in range(size):
                        decay[t, n, d] = factor[d] * power[d]
                        h[t + 1, n, d] = decay[t, n, d] * h[t, n, d] + step[t, d] * (b * u[image, pixel, start + d])
                        product[d] = dy[image, pixel, start + d] * h[t + 1, n, d]
                    dC[part, image, k, n, pixel] = total(product)
            carried[:] = ZERO
            for n in range(states):
                for d in range(size):
                    dA_log[image, k, n, start + d] = ZERO
            for t in range(length - 1, -1, -1):
                pixel = t if k == 0 else length - 1 - t
                dstep[:] = ZERO
                for n in range(states):
                    b, c = B[image, k, n, pixel], C[image, k, n, pixel]
                    for d in range(size):
                        value = u[image, pixel, start + d]
                        gradient = carried[n, d] + c * dy[image, pixel, start + d]  # of h at t
                        carried[n, d] = gradient * decay[t, n, d]
                        fading = -carried[n, d] * h[t, n, d] * rate[k, n, start + d]  # of the step, by the decay
                        dstep[d] += fading + gradient * (b * value)
                        dA_log[image, k, n, start + d] += fading * step[t, d]
                        product[d] = gradient * (step[t, d] * value)
                        du[image, pixel, start + d] += gradient * (step[t, d] * b)
                    dB[part, image, k, n, pixel] = total(product)
                for d in range(size):
                    dlogits[k, image, pixel, start + d] = dstep[d] * slope[t, d]
