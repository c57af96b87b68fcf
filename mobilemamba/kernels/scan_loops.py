"""The loops of the selective scan and of its gradients, for :mod:`.scan`.

In loops over channels, rows are cut out of the arrays before: indices with an offset would keep LLVM from making vector
instructions.
"""

from __future__ import annotations

import numpy as np

from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.order import Integers
from mobilemamba.kernels.vector_math import ZERO, Floats, dot, exponential, sigmoid, softplus, to_power


@in_order
def scan(
    order: Integers,
    u: Floats,
    x_dbl: Floats,
    dt_proj_weight: Floats,
    dt_proj_bias: Floats,
    A: Floats,
    skip: Floats,
    y: Floats,
    width: int,
    first: int,
    last: int,
) -> None:
    """Scan some channels of some images.

    Args:
        order: Pixels in the order of each scan, (K, L).
        u: (G, L, D), G images of L pixels.
        x_dbl: (G, L, K * (R + 2N)).
        dt_proj_weight: (K, R, D).
        dt_proj_bias: (K, D).
        A: exp(A_log), (K, N, D).
        skip: D summed over directions, (D,).
        y: (G, L, D), written.
        width: Channels of a task.
        first: Task to begin with: those of an image follow each other.
        last: Task to end before.
    """
    directions, states, channels = A.shape
    length, rank = u.shape[1], dt_proj_weight.shape[1]
    ranges = (channels + width - 1) // width
    for task in range(first, last):
        image, start = task // ranges, task % ranges * width
        size = min(width, channels - start)
        part = slice(start, start + size)
        factor, power = np.empty(size, np.float32), np.empty(size, np.float32)
        dt, delta = np.empty(size, np.float32), np.empty(size, np.float32)
        bits = power.view(np.int32)  # the same memory
        h = np.empty((states, size), np.float32)
        skip_row = skip[part]
        for pixel in range(length):
            u_row, y_row = u[image, pixel, part], y[image, pixel, part]
            for d in range(size):
                y_row[d] = skip_row[d] * u_row[d]
        for k in range(directions):
            low, Bs, Cs = _columns(k, directions, rank, states)
            h[:] = ZERO
            for t in range(length):
                pixel = order[k, t]
                u_row, y_row, x_dbl_row = u[image, pixel, part], y[image, pixel, part], x_dbl[image, pixel]
                dt[:] = dt_proj_bias[k, part]
                for r in range(rank):
                    weight_row, value = dt_proj_weight[k, r, part], x_dbl_row[low + r]
                    for d in range(size):
                        dt[d] += value * weight_row[d]
                for d in range(size):
                    factor[d], power[d] = exponential(-abs(dt[d]))
                for d in range(size):
                    bits[d] = to_power(bits[d])
                for d in range(size):
                    delta[d] = softplus(dt[d], factor[d] * power[d])
                for n in range(states):
                    A_row, h_row = A[k, n, part], h[n]
                    for d in range(size):
                        factor[d], power[d] = exponential(-delta[d] * A_row[d])
                    for d in range(size):
                        bits[d] = to_power(bits[d])
                    b, c = x_dbl_row[Bs + n], x_dbl_row[Cs + n]
                    for d in range(size):
                        h_row[d] = factor[d] * power[d] * h_row[d] + delta[d] * (b * u_row[d])
                        y_row[d] += c * h_row[d]


@in_order
def scan_backward(
    order: Integers,
    u: Floats,
    x_dbl: Floats,
    dt_proj_weight: Floats,
    dt_proj_bias: Floats,
    A: Floats,
    skip: Floats,
    dy: Floats,
    du: Floats,
    dx_dbl: Floats,
    dweight: Floats,
    dbias: Floats,
    dA_log: Floats,
    dskip: Floats,
    first: int,
    last: int,
) -> None:
    """Write the gradients of the images of some parts.

    Args:
        order: (K, L).
        u: (G, L, D).
        x_dbl: (G, L, K * (R + 2N)).
        dt_proj_weight: (K, R, D).
        dt_proj_bias: (K, D).
        A: exp(A_log), (K, N, D).
        skip: D summed over directions, (D,).
        dy: Gradient of y, (G, L, D).
        du: (G, L, D), written.
        dx_dbl: (G, L, K * (R + 2N)), written.
        dweight: (parts, K, R, D), added to, like the next three.
        dbias: (parts, K, D).
        dA_log: (parts, K, N, D).
        dskip: (parts, D).
        first: Part to begin with.
        last: Part to end before.
    """
    directions, states, channels = A.shape
    images, length, _ = u.shape
    rank, parts = dt_proj_weight.shape[1], len(dweight)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    dt, ddelta = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits = power.view(np.int32)  # the same memory
    # What the way back needs of every pixel, in scan order; pixel 0 of the states is before the first.
    delta, slope = np.empty((length, channels), np.float32), np.empty((length, channels), np.float32)
    A_bar, h = np.empty((length, states, channels), np.float32), np.empty((length + 1, states, channels), np.float32)
    carried = np.empty((states, channels), np.float32)
    for part in range(first, last):
        for image in range(images * part // parts, images * (part + 1) // parts):
            dskip_row = dskip[part]
            for pixel in range(length):
                u_row, dy_row, du_row = u[image, pixel], dy[image, pixel], du[image, pixel]
                for d in range(channels):
                    du_row[d] = skip[d] * dy_row[d]
                    dskip_row[d] += dy_row[d] * u_row[d]
            for k in range(directions):
                low, Bs, Cs = _columns(k, directions, rank, states)
                h[0] = ZERO
                for t in range(length):
                    pixel = order[k, t]
                    u_row, dy_row, x_dbl_row = u[image, pixel], dy[image, pixel], x_dbl[image, pixel]
                    delta_row, slope_row = delta[t], slope[t]
                    dt[:] = dt_proj_bias[k]
                    for r in range(rank):
                        weight_row, value = dt_proj_weight[k, r], x_dbl_row[low + r]
                        for d in range(channels):
                            dt[d] += value * weight_row[d]
                    for d in range(channels):
                        factor[d], power[d] = exponential(-abs(dt[d]))
                    for d in range(channels):
                        bits[d] = to_power(bits[d])
                    for d in range(channels):
                        delta_row[d] = softplus(dt[d], factor[d] * power[d])
                        slope_row[d] = sigmoid(dt[d], factor[d] * power[d])
                    for n in range(states):
                        A_row, A_bar_row, before, after = A[k, n], A_bar[t, n], h[t, n], h[t + 1, n]
                        for d in range(channels):
                            factor[d], power[d] = exponential(-delta_row[d] * A_row[d])
                        for d in range(channels):
                            bits[d] = to_power(bits[d])
                        b = x_dbl_row[Bs + n]
                        for d in range(channels):
                            A_bar_row[d] = factor[d] * power[d]
                            after[d] = A_bar_row[d] * before[d] + delta_row[d] * (b * u_row[d])
                        dx_dbl[image, pixel, Cs + n] = dot(dy_row, after)
                carried[:] = ZERO
                for t in range(length - 1, -1, -1):
                    pixel = order[k, t]
                    u_row, dy_row, du_row = u[image, pixel], dy[image, pixel], du[image, pixel]
                    delta_row, slope_row, x_dbl_row = delta[t], slope[t], x_dbl[image, pixel]
                    dx_dbl_row = dx_dbl[image, pixel]
                    ddelta[:] = ZERO
                    for n in range(states):
                        A_row, A_bar_row, before, carried_row = A[k, n], A_bar[t, n], h[t, n], carried[n]
                        dA_row = dA_log[part, k, n]
                        b, c = x_dbl_row[Bs + n], x_dbl_row[Cs + n]
                        for d in range(channels):
                            gradient = carried_row[d] + c * dy_row[d]  # of h at t
                            carried_row[d] = gradient * A_bar_row[d]
                            fading = -carried_row[d] * before[d] * A_row[d]  # of the delta, by the A_bar
                            ddelta[d] += fading + gradient * (b * u_row[d])
                            dA_row[d] += fading * delta_row[d]
                            factor[d] = gradient * delta_row[d]
                            du_row[d] += factor[d] * b
                        dx_dbl_row[Bs + n] = dot(factor, u_row)
                    dbias_row = dbias[part, k]
                    for d in range(channels):
                        ddelta[d] *= slope_row[d]  # of the dt from here on
                        dbias_row[d] += ddelta[d]
                    for r in range(rank):
                        dx_dbl_row[low + r] = dot(ddelta, dt_proj_weight[k, r])
                        dweight_row, value = dweight[part, k, r], x_dbl_row[low + r]
                        for d in range(channels):
                            dweight_row[d] += value * ddelta[d]


@in_order
def _columns(k: int, directions: int, rank: int, states: int) -> tuple[int, int, int]:
    """Return where in the projection of a pixel the low ranks, B and C of a direction begin."""
    return k * rank, directions * rank + k * states, directions * (rank + states) + k * states
