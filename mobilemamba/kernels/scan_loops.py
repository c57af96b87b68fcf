"""The loops of the selective scan and of its gradients, for :mod:`.scan`.

In loops over channels, rows are cut out of the arrays before: indices with an offset would keep LLVM from making vector
instructions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.vector_math import ZERO, Floats, decays, dot, exponentials, sigmoid, softplus

Integers = NDArray[np.int64]


@in_order
def scan(
    order: Integers,  # pixels in the order of each scan, (K, L)
    u: Floats,  # (B, L, D), images of L pixels
    x_dbl: Floats,  # (B, L, K * (R + 2N))
    dt_proj_weight: Floats,  # (K, R, D)
    dt_proj_bias: Floats,  # (K, D)
    A: Floats,  # exp(A_log), (K, N, D)
    skip: Floats,  # D summed over directions, (D,)
    y: Floats,  # (B, L, D), written
    width: int,
    first: int,
    last: int,
) -> None:
    """Do the tasks from the first to before the last: each scans some channels, ``width`` at most, of an image."""
    directions, states, channels = A.shape
    length, rank = u.shape[1], dt_proj_weight.shape[1]
    ranges = (channels + width - 1) // width
    for task in range(first, last):
        image, start = task // ranges, task % ranges * width
        size = min(width, channels - start)
        part = slice(start, start + size)
        factor, power = np.empty(size, np.float32), np.empty(size, np.float32)
        dt, delta = np.empty(size, np.float32), np.empty(size, np.float32)
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
                exponentials(dt, factor, power)
                for d in range(size):
                    delta[d] = softplus(dt[d], factor[d] * power[d])
                for n in range(states):
                    A_row, h_row = A[k, n, part], h[n]
                    decays(delta, A_row, factor, power)
                    b, c = x_dbl_row[Bs + n], x_dbl_row[Cs + n]
                    for d in range(size):
                        h_row[d] = factor[d] * power[d] * h_row[d] + delta[d] * (b * u_row[d])
                        y_row[d] += c * h_row[d]


@in_order
def scan_backward(
    order: Integers,  # (K, L)
    u: Floats,  # (B, L, D)
    x_dbl: Floats,  # (B, L, K * (R + 2N))
    dt_proj_weight: Floats,  # (K, R, D)
    dt_proj_bias: Floats,  # (K, D)
    A: Floats,  # exp(A_log), (K, N, D)
    skip: Floats,  # D summed over directions, (D,)
    dy: Floats,  # (B, L, D)
    du: Floats,  # (B, L, D), written
    dx_dbl: Floats,  # (B, L, K * (R + 2N)), written
    dweight: Floats,  # (parts, K, R, D), added to, like the next three
    dbias: Floats,  # (parts, K, D)
    dA_log: Floats,  # (parts, K, N, D)
    dskip: Floats,  # (parts, D)
    first: int,
    last: int,
) -> None:
    """Write the gradients of the images of the parts from the first to before the last."""
    directions, states, channels = A.shape
    images, length, _ = u.shape
    rank, parts = dt_proj_weight.shape[1], len(dweight)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    dt, ddelta = np.empty(channels, np.float32), np.empty(channels, np.float32)
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
                    exponentials(dt, factor, power)
                    for d in range(channels):
                        delta_row[d] = softplus(dt[d], factor[d] * power[d])
                        slope_row[d] = sigmoid(dt[d], factor[d] * power[d])
                    for n in range(states):
                        A_row, A_bar_row, before, after = A[k, n], A_bar[t, n], h[t, n], h[t + 1, n]
                        decays(delta_row, A_row, factor, power)
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
