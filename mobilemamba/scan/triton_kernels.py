"""Triton kernels of the selective scan: each program takes a block of channels of one image, in every direction.

Pixels lie along the last axis of a tile, and ``tl.associative_scan`` runs over it from either end, so both directions
share one load of the input and no flipped copy is made. State and sums are float32 whatever the arguments are.

A map of more than BLOCK_L pixels is scanned chunk by chunk. Chunks are visited in the order of the scan, which differs
between directions, so such a map takes one launch per direction: FIRST and LAST delimit the directions of a launch, and
a second launch adds to what the first has written.

Lanes past the last pixel load a logit of -inf: their step is 0, their decay 1 and their drive 0.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    u_ptr: tl.tensor,  # (B, D, L)
    logits_ptr: tl.tensor,  # (B, K, D, L)
    A_log_ptr: tl.tensor,  # (K, D, N)
    B_ptr: tl.tensor,  # (B, K, N, L)
    C_ptr: tl.tensor,  # (B, K, N, L)
    D_skip_ptr: tl.tensor,  # (K, D)
    y_ptr: tl.tensor,  # (B, D, L)
    handed_ptr: tl.tensor,  # (B, K, CHUNKS - 1, D, N)
    CHANNELS: tl.constexpr,
    LENGTH: tl.constexpr,
    STATE_SIZE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Write y, and the states that chunks hand to the next."""
    image, _block, d = _program(CHANNELS, BLOCK_D)
    in_block = d < CHANNELS
    carries = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
    for i in range(CHUNKS):
        t = (CHUNKS - 1 - i if FIRST == 1 else i) * BLOCK_L + tl.arange(0, BLOCK_L)
        in_map = t < LENGTH
        inside = in_block[:, None] & in_map[None, :]
        pixel = d[:, None] * LENGTH + t[None, :]
        u = tl.load(u_ptr + image * CHANNELS * LENGTH + pixel, inside, 0.0).to(tl.float32)
        y_pixels = y_ptr + image * CHANNELS * LENGTH + pixel
        y = tl.load(y_pixels, inside, 0.0) if FIRST > 0 else tl.zeros((BLOCK_D, BLOCK_L), tl.float32)
        for k in tl.static_range(FIRST, LAST):
            y += tl.load(D_skip_ptr + k * CHANNELS + d, in_block, 0.0).to(tl.float32)[:, None] * u
            row = image * DIRECTIONS + k
            logits = tl.load(logits_ptr + row * CHANNELS * LENGTH + pixel, inside, float("-inf")).to(tl.float32)
            step = _softplus(logits)
            for n in range(STATE_SIZE):
                A_log = tl.load(A_log_ptr + (k * CHANNELS + d) * STATE_SIZE + n, in_block, 0.0).to(tl.float32)
                B = tl.load(B_ptr + (row * STATE_SIZE + n) * LENGTH + t, in_map, 0.0).to(tl.float32)
                C = tl.load(C_ptr + (row * STATE_SIZE + n) * LENGTH + t, in_map, 0.0).to(tl.float32)
                decay = tl.exp(-step * tl.exp(A_log)[:, None])
                product, state = tl.associative_scan((decay, step * u * B[None, :]), 1, _follow, reverse=k == 1)
                if CHUNKS > 1:
                    state += product * _get(carries, n)[:, None]
                    carry = _get(state, 0 if k == 1 else BLOCK_L - 1)
                    carries = _set(carries, n, carry)
                    handed = handed_ptr + ((row * (CHUNKS - 1) + i) * CHANNELS + d) * STATE_SIZE + n
                    tl.store(handed, carry, in_block & (i < CHUNKS - 1))
                y += C[None, :] * state
        tl.store(y_pixels, y, inside)


@triton.jit
def backward_kernel(
    dy_ptr: tl.tensor,  # (B, D, L)
    u_ptr: tl.tensor,  # (B, D, L)
    logits_ptr: tl.tensor,  # (B, K, D, L)
    A_log_ptr: tl.tensor,  # (K, D, N)
    B_ptr: tl.tensor,  # (B, K, N, L)
    C_ptr: tl.tensor,  # (B, K, N, L)
    D_skip_ptr: tl.tensor,  # (K, D)
    handed_ptr: tl.tensor,  # (B, K, CHUNKS - 1, D, N)
    du_ptr: tl.tensor,  # (B, D, L)
    dlogits_ptr: tl.tensor,  # (B, K, D, L)
    dA_log_ptr: tl.tensor,  # (B, CHUNKS, K, D, N)
    dB_ptr: tl.tensor,  # (blocks of D, B, K, N, L)
    dC_ptr: tl.tensor,  # (blocks of D, B, K, N, L)
    dD_skip_ptr: tl.tensor,  # (B, CHUNKS, K, D)
    images: tl.tensor,
    CHANNELS: tl.constexpr,
    LENGTH: tl.constexpr,
    STATE_SIZE: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Write the gradients of u and the logits, and the parts of all others that this program sees.

    States are computed again. With g the gradient of the state h, and decays a, the recurrences are::

        h_t = a_t h_{t-1} + step_t B_t u_t
        g_t = C_t dy_t + a_{t+1} g_{t+1}
    """
    image, block, d = _program(CHANNELS, BLOCK_D)
    in_block = d < CHANNELS
    carries = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)  # a_t g_t at the first pixel of the chunk before
    for i in range(CHUNKS - 1, -1, -1):  # gradients run against the scan
        chunk = CHUNKS - 1 - i if FIRST == 1 else i
        t = chunk * BLOCK_L + tl.arange(0, BLOCK_L)
        in_map = t < LENGTH
        inside = in_block[:, None] & in_map[None, :]
        pixel = d[:, None] * LENGTH + t[None, :]
        u = tl.load(u_ptr + image * CHANNELS * LENGTH + pixel, inside, 0.0).to(tl.float32)
        dy = tl.load(dy_ptr + image * CHANNELS * LENGTH + pixel, inside, 0.0)
        du_pixels = du_ptr + image * CHANNELS * LENGTH + pixel
        du = tl.load(du_pixels, inside, 0.0) if FIRST > 0 else tl.zeros((BLOCK_D, BLOCK_L), tl.float32)
        for k in tl.static_range(FIRST, LAST):
            part = ((image * CHUNKS + chunk) * DIRECTIONS + k) * CHANNELS + d  # of a sum over images and chunks
            tl.store(dD_skip_ptr + part, tl.sum(dy * u, 1), in_block)
            du += tl.load(D_skip_ptr + k * CHANNELS + d, in_block, 0.0).to(tl.float32)[:, None] * dy
            row = image * DIRECTIONS + k
            row_pixel = row * CHANNELS * LENGTH + pixel
            logits = tl.load(logits_ptr + row_pixel, inside, float("-inf")).to(tl.float32)
            step = _softplus(logits)
            dstep = tl.zeros((BLOCK_D, BLOCK_L), tl.float32)
            for n in range(STATE_SIZE):
                A_log = tl.load(A_log_ptr + (k * CHANNELS + d) * STATE_SIZE + n, in_block, 0.0).to(tl.float32)
                B = tl.load(B_ptr + (row * STATE_SIZE + n) * LENGTH + t, in_map, 0.0).to(tl.float32)[None, :]
                C = tl.load(C_ptr + (row * STATE_SIZE + n) * LENGTH + t, in_map, 0.0).to(tl.float32)[None, :]
                rate = tl.exp(A_log)[:, None]
                decay = tl.exp(-step * rate)
                drive = step * u * B
                # a_t h_{t-1} as such: as h_t less its drive it would be lost to rounding where steps are large.
                zero = tl.zeros((BLOCK_D, BLOCK_L), tl.float32)
                product, decayed, _drive = tl.associative_scan((decay, zero, drive), 1, _follow_late, reverse=k == 1)
                product_back, g, _decay = tl.associative_scan(
                    (zero + 1, C * dy, decay), 1, _follow_back, reverse=k == 0
                )
                if CHUNKS > 1:
                    handed = handed_ptr + ((row * (CHUNKS - 1) + i - 1) * CHANNELS + d) * STATE_SIZE + n
                    decayed += product * tl.load(handed, in_block & (i > 0), 0.0)[:, None]
                    g += product_back * _get(carries, n)[:, None]
                    carries = _set(carries, n, _get(decay * g, BLOCK_L - 1 if k == 1 else 0))
                dstep += g * (B * u - rate * decayed)
                du += g * step * B
                tl.store(dA_log_ptr + part * STATE_SIZE + n, -tl.sum(g * decayed * step * rate, 1), in_block)
                in_sum = ((block * images + image) * DIRECTIONS + k) * STATE_SIZE + n  # over blocks of channels
                tl.store(dB_ptr + in_sum * LENGTH + t, tl.sum(g * step * u, 0), in_map)
                tl.store(dC_ptr + in_sum * LENGTH + t, tl.sum(dy * (decayed + drive), 0), in_map)
            tl.store(dlogits_ptr + row_pixel, dstep * _logistic(logits), inside)
        tl.store(du_pixels, du, inside)


@triton.jit
def _program(CHANNELS: tl.constexpr, BLOCK_D: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return this program's image, its block of channels, and the channels in it."""
    blocks: tl.constexpr = (CHANNELS + BLOCK_D - 1) // BLOCK_D
    image = (tl.program_id(0) // blocks).to(tl.int64)  # a batch may hold more than 2**31 values
    block = tl.program_id(0) % blocks
    return image, block, block * BLOCK_D + tl.arange(0, BLOCK_D)


@triton.jit
def _follow(
    decay_1: tl.tensor, drive_1: tl.tensor, decay_2: tl.tensor, drive_2: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Compose two maps h -> decay * h + drive, the first applied first."""
    return decay_1 * decay_2, decay_2 * drive_1 + drive_2


@triton.jit
def _follow_late(
    decay_1: tl.tensor, h_1: tl.tensor, drive_1: tl.tensor, decay_2: tl.tensor, h_2: tl.tensor, drive_2: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Compose maps to the state before its own drive is added: that waits in the third value."""
    return decay_1 * decay_2, decay_2 * (h_1 + drive_1) + h_2, drive_2


@triton.jit
def _follow_back(
    product_1: tl.tensor, g_1: tl.tensor, decay_1: tl.tensor, product_2: tl.tensor, g_2: tl.tensor, decay_2: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Compose maps to the gradient of a state, whose decay acts on the way to the next: it waits in the third value."""
    factor = decay_1 * product_2
    return product_1 * factor, factor * g_1 + g_2, decay_2


@triton.jit
def _softplus(x: tl.tensor) -> tl.tensor:
    """Return log(1 + exp(x)).

    log(1 + z) is 2 artanh(z / (2 + z)), whose series needs eight terms for z in [0, 1]. It keeps the relative precision
    of small steps, which log loses to the rounding of 1 + z, and takes fewer instructions.
    """
    z = tl.exp(-tl.abs(x))
    ratio = z / (2 + z)  # at most 1 / 3
    square = ratio * ratio
    series = 1 / 15 * square + 1 / 13
    series = series * square + 1 / 11
    series = series * square + 1 / 9
    series = series * square + 1 / 7
    series = series * square + 1 / 5
    series = series * square + 1 / 3
    series = series * square + 1
    return tl.maximum(x, 0.0) + 2 * ratio * series


@triton.jit
def _logistic(x: tl.tensor) -> tl.tensor:
    """Return 1 / (1 + exp(-x)), the slope of softplus."""
    z = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, z) / (1 + z)


@triton.jit
def _get(x: tl.tensor, column: tl.tensor) -> tl.tensor:
    """Return one column of a tile: tiles cannot be indexed."""
    return tl.sum(tl.where(tl.arange(0, x.shape[1])[None, :] == column, x, 0.0), 1)


@triton.jit
def _set(x: tl.tensor, column: tl.tensor, value: tl.tensor) -> tl.tensor:
    """Return a tile with one column replaced."""
    return tl.where(tl.arange(0, x.shape[1])[None, :] == column, value[:, None], x)
