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
    projected: Floats,
    dt_proj_weight: Floats,
    dt_proj_bias: Floats,
    rate: Floats,
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
        projected: (G, L, K * (R + 2N)).
        dt_proj_weight: (K, R, D).
        dt_proj_bias: (K, D).
        rate: exp(A_log), (K, N, D).
        skip: D summed over directions, (D,).
        y: (G, L, D), written.
        width: Channels of a task.
        first: Task to begin with: those of an image follow each other.
        last: Task to end before.
    """
    directions, states, channels = rate.shape
    length, rank = u.shape[1], dt_proj_weight.shape[1]
    ranges = (channels + width - 1) // width
    for task in range(first, last):
        image, start = task // ranges, task % ranges * width
        size = min(width, channels - start)
        part = slice(start, start + size)
        factor, power = np.empty(size, np.float32), np.empty(size, np.float32)
        logit, step = np.empty(size, np.float32), np.empty(size, np.float32)
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
                u_row, y_row, projected_row = u[image, pixel, part], y[image, pixel, part], projected[image, pixel]
                logit[:] = dt_proj_bias[k, part]
                for r in range(rank):
                    weight_row, value = dt_proj_weight[k, r, part], projected_row[low + r]
                    for d in range(size):
                        logit[d] += value * weight_row[d]
                for d in range(size):
                    factor[d], power[d] = exponential(-abs(logit[d]))
                for d in range(size):
                    bits[d] = to_power(bits[d])
                for d in range(size):
                    step[d] = softplus(logit[d], factor[d] * power[d])
                for n in range(states):
                    rate_row, h_row = rate[k, n, part], h[n]
                    for d in range(size):
                        factor[d], power[d] = exponential(-step[d] * rate_row[d])
                    for d in range(size):
                        bits[d] = to_power(bits[d])
                    b, c = projected_row[Bs + n], projected_row[Cs + n]
                    for d in range(size):
                        h_row[d] = factor[d] * power[d] * h_row[d] + step[d] * (b * u_row[d])
                        y_row[d] += c * h_row[d]


@in_order
def scan_backward(
    order: Integers,
    u: Floats,
    projected: Floats,
    dt_proj_weight: Floats,
    dt_proj_bias: Floats,
    rate: Floats,
    skip: Floats,
    dy: Floats,
    du: Floats,
    dprojected: Floats,
    dweight: Floats,
    dbias: Floats,
    dA_log: Floats,
    dskip: Floats,
    first: int,
    last: int,
) -> None:
    """Write the gradients of the images of some parts.

    Args:
        order: As in :func:`scan`, like the next six.
        u: See there.
        projected: See there.
        dt_proj_weight: See there.
        dt_proj_bias: See there.
        rate: See there.
        skip: See there.
        dy: Gradient of y, (G, L, D).
        du: (G, L, D), written.
        dprojected: (G, L, K * (R + 2N)), written.
        dweight: (parts, K, R, D), added to, like the next three.
        dbias: (parts, K, D).
        dA_log: (parts, K, N, D).
        dskip: (parts, D).
        first: Part to begin with.
        last: Part to end before.
    """
    directions, states, channels = rate.shape
    images, length, _ = u.shape
    rank, parts = dt_proj_weight.shape[1], len(dweight)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    logit, dstep = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits = power.view(np.int32)  # the same memory
    # What the way back needs of every pixel, in scan order; pixel 0 of the states is before the first.
    step, slope = np.empty((length, channels), np.float32), np.empty((length, channels), np.float32)
    decay, h = np.empty((length, states, channels), np.float32), np.empty((length + 1, states, channels), np.float32)
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
                    u_row, dy_row, projected_row = u[image, pixel], dy[image, pixel], projected[image, pixel]
                    step_row, slope_row = step[t], slope[t]
                    logit[:] = dt_proj_bias[k]
                    for r in range(rank):
                        weight_row, value = dt_proj_weight[k, r], projected_row[low + r]
                        for d in range(channels):
                            logit[d] += value * weight_row[d]
                    for d in range(channels):
                        factor[d], power[d] = exponential(-abs(logit[d]))
                    for d in range(channels):
                        bits[d] = to_power(bits[d])
                    for d in range(channels):
                        step_row[d] = softplus(logit[d], factor[d] * power[d])
                        slope_row[d] = sigmoid(logit[d], factor[d] * power[d])
                    for n in range(states):
                        rate_row, decay_row, before, after = rate[k, n], decay[t, n], h[t, n], h[t + 1, n]
                        for d in range(channels):
                            factor[d], power[d] = exponential(-step_row[d] * rate_row[d])
                        for d in range(channels):
                            bits[d] = to_power(bits[d])
                        b = projected_row[Bs + n]
                        for d in range(channels):
                            decay_row[d] = factor[d] * power[d]
                            after[d] = decay_row[d] * before[d] + step_row[d] * (b * u_row[d])
                        dprojected[image, pixel, Cs + n] = dot(dy_row, after)
                carried[:] = ZERO
                for t in range(length - 1, -1, -1):
                    pixel = order[k, t]
                    u_row, dy_row, du_row = u[image, pixel], dy[image, pixel], du[image, pixel]
                    step_row, slope_row, projected_row = step[t], slope[t], projected[image, pixel]
                    dprojected_row = dprojected[image, pixel]
                    dstep[:] = ZERO
                    for n in range(states):
                        rate_row, decay_row, before, carried_row = rate[k, n], decay[t, n], h[t, n], carried[n]
                        dA_row = dA_log[part, k, n]
                        b, c = projected_row[Bs + n], projected_row[Cs + n]
                        for d in range(channels):
                            gradient = carried_row[d] + c * dy_row[d]  # of h at t
                            carried_row[d] = gradient * decay_row[d]
                            fading = -carried_row[d] * before[d] * rate_row[d]  # of the step, by the decay
                            dstep[d] += fading + gradient * (b * u_row[d])
                            dA_row[d] += fading * step_row[d]
                            factor[d] = gradient * step_row[d]
                            du_row[d] += factor[d] * b
                        dprojected_row[Bs + n] = dot(factor, u_row)
                    dbias_row = dbias[part, k]
                    for d in range(channels):
                        dstep[d] *= slope_row[d]  # of the logit from here on
                        dbias_row[d] += dstep[d]
                    for r in range(rank):
                        dprojected_row[low + r] = dot(dstep, dt_proj_weight[k, r])
                        dweight_row, value = dweight[part, k, r], projected_row[low + r]
                        for d in range(channels):
                            dweight_row[d] += value * dstep[d]


@in_order
def _columns(k: int, directions: int, rank: int, states: int) -> tuple[int, int, int]:
    """Return where in the projection of a pixel the low ranks, B and C of a direction begin."""
    return k * rank, directions * rank + k * states, directions * (rank + states) + k * states
