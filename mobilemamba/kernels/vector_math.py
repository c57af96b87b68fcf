"""Exponential, logarithm and what is made of them, written out so that LLVM makes vector instructions of their loops.

After Cephes (netlib.org/cephes, single precision); calls of the C library would be made value by value. Comparisons are
put so that NaN stays NaN. Exponentials end at that of -87, the smallest normal number.

An exponential takes two loops over a row: the first writes a factor and, as a float, the rounded exponent; the second
makes a power of two of the bits of the latter, which it sees as integers through a view of the same memory. Within one
loop Numba cannot look at a float's bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobilemamba.kernels.compilation import inlined, reordered

Floats = NDArray[np.float32]

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


@reordered
def total(values: Floats) -> np.float32:
    """Return the sum of a row."""
    result = ZERO
    for d in range(values.size):
        result += values[d]
    return result


@reordered
def dot(x: Floats, y: Floats) -> np.float32:
    """Return the sum of the products of two rows."""
    result = ZERO
    for d in range(x.size):
        result += x[d] * y[d]
    return result


@inlined
def exponentials(x: Floats, factor: Floats, power: Floats) -> None:
    """Write exp(-abs(x)) of a row as two factors."""
    for d in range(x.size):
        factor[d], power[d] = _exponential(-abs(x[d]))
    _to_powers(power)


@inlined
def decays(delta: Floats, A: Floats, factor: Floats, power: Floats) -> None:
    """Write exp(-delta * A) of two rows of positive numbers as two factors."""
    for d in range(delta.size):
        factor[d], power[d] = _exponential(-delta[d] * A[d])
    _to_powers(power)


@inlined
def _exponential(x: np.float32) -> tuple[np.float32, np.float32]:
    """Return exp(x), for x of 0 at most, as two factors; of the second only the bits, see :func:`_to_powers`."""
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


@inlined
def _to_powers(rounded: Floats) -> None:
    """Put in the place of rounded exponents the powers of two that their lowest bits stand for."""
    bits = rounded.view(np.int32)  # the same memory
    for d in range(bits.size):
        bits[d] = (bits[d] << MANTISSA_BITS) + EXPONENT_BIAS


@inlined
def sigmoid(x: np.float32, small: np.float32) -> np.float32:
    """Return 1 / (1 + exp(-x)), given exp(-abs(x))."""
    return (small if x < ZERO else ONE) / (ONE + small)


@inlined
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
