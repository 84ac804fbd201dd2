"""Triton kernels of USSFC-Net for CUDA devices, 16-bit features, float32 sums.

The network moves far more bytes than it computes, so each kernel reads a feature map once, applies the operations
before it (SSFC, norm, ReLU) on the way in, and those after it (bias, ReLU, the sums that SSFC needs, the difference
of the dates, the pooling) on the way out. All sums are made in a fixed order: the same input gives the same bytes.

Layouts, innermost last: features ``(images, rows, cols, channels)``; "images" are the patches of the before date and
then those of the after date in the encoders, patches in the decoder. ``native`` and ``aux`` are the two halves of an
MSDConv's output (see :mod:`ussfc.layers`), kept apart. Statistics ``(images, channels, 2)`` float32: the mean of
``aux`` and ``1 / (2 variance + eps)``.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Features beyond float16 become infinite and then NaN. A maximum that drops NaN would make a probability of it.
EVERY_NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _activated(x, scale, shift):
    """Apply norm and ReLU; (pixels, channels)."""
    return tl.maximum(x.to(tl.float32) * scale[None, :] + shift[None, :], 0.0, propagate_nan=EVERY_NAN)


@triton.jit
def _cooperated(x, mean, inverse):
    """Apply SSFC with known statistics."""
    x = x.to(tl.float32)
    deviation = x - mean[None, :]
    return x * tl.sigmoid(deviation * deviation * inverse[None, :] + 0.5)


@triton.jit
def stem(
    image, corners, weight, bias, out, patches, height, width, date_stride, band_stride, row_stride,
    BANDS: tl.constexpr, TAPS: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Apply the first 3x3 convolution and ReLU, straight to the images.

    ``image`` holds both dates as float32 in [0, 1], ``corners`` (patches, 2) int32 the row and column where each
    patch begins. ``weight`` is (2, TAPS, OUT), row ``9 band + 3 y + x``, zero beyond ``9 BANDS``.
    """
    n = tl.program_id(1)
    encoder = n // patches
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = pixel // width, pixel % width
    tap = tl.arange(0, TAPS)
    band, row, col = tap // 9, tap % 9 // 3 - 1, tap % 3 - 1
    at_y, at_x = y[:, None] + row[None, :], x[:, None] + col[None, :]
    there = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
    there = there & (pixel < height * width)[:, None] & (tap < 9 * BANDS)[None, :]
    corner = corners + n % patches * 2
    start = (
        encoder.to(tl.int64) * date_stride + tl.load(corner).to(tl.int64) * row_stride + tl.load(corner + 1)
    )
    values = tl.load(
        image + start + band[None, :] * band_stride + at_y * row_stride + at_x, mask=there, other=0.5
    )
    # Outside of a patch there is 0 in the network's range, 0.5 in the images'.
    values = (values * 2 - 1).to(out.dtype.element_ty)
    channel = tl.arange(0, OUT)
    weights = tl.load(weight + (encoder * TAPS + tap[:, None]) * OUT + channel[None, :])
    sums = tl.dot(values, weights) + tl.load(bias + encoder * OUT + channel)[None, :]
    target = out + (n.to(tl.int64) * height * width + pixel)[:, None] * OUT + channel[None, :]
    tl.store(
        target,
        tl.maximum(sums, 0.0, propagate_nan=EVERY_NAN).to(out.dtype.element_ty),
        mask=(pixel < height * width)[:, None],
    )


@triton.jit
def first_level(
    features, weight, bias, skip, pooled, patches, height, width,
    C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Apply the second 3x3 convolution and ReLU of both encoders; write their absolute difference and 2x2 maxima.

    A program has ROWS x COLS pixels of the pooled map. ``weight`` is (2, 9, C, C): in, out.
    """
    n = tl.program_id(1)
    low_height, low_width = height // 2, width // 2
    across = tl.cdiv(low_width, COLS)
    index = tl.arange(0, ROWS * COLS)
    low_y = tl.program_id(0) // across * ROWS + index // COLS
    low_x = tl.program_id(0) % across * COLS + index % COLS
    inside = (low_y < low_height) & (low_x < low_width)
    channel = tl.arange(0, C)
    size = height * width
    one = features + n.to(tl.int64) * size * C
    other = features + (n + patches).to(tl.int64) * size * C
    bias_one = tl.load(bias + channel)
    bias_other = tl.load(bias + C + channel)
    kind = skip.dtype.element_ty
    most_one = tl.zeros((ROWS * COLS, C), tl.float32)
    most_other = tl.zeros((ROWS * COLS, C), tl.float32)
    for quad in range(4):
        y, x = 2 * low_y + quad // 2, 2 * low_x + quad % 2
        sum_one = tl.zeros((ROWS * COLS, C), tl.float32)
        sum_other = tl.zeros((ROWS * COLS, C), tl.float32)
        for tap in tl.static_range(9):
            at_y, at_x = y + tap // 3 - 1, x + tap % 3 - 1
            there = inside & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            offset = (at_y * width + at_x)[:, None] * C + channel[None, :]
            matrix = weight + tap * C * C + channel[:, None] * C + channel[None, :]
            sum_one += tl.dot(tl.load(one + offset, mask=there[:, None], other=0.0), tl.load(matrix))
            sum_other += tl.dot(
                tl.load(other + offset, mask=there[:, None], other=0.0), tl.load(matrix + 9 * C * C)
            )
        sum_one = tl.maximum(sum_one + bias_one[None, :], 0.0, propagate_nan=EVERY_NAN)
        sum_other = tl.maximum(sum_other + bias_other[None, :], 0.0, propagate_nan=EVERY_NAN)
        most_one, most_other = (
            tl.maximum(most_one, sum_one, propagate_nan=EVERY_NAN),
            tl.maximum(most_other, sum_other, propagate_nan=EVERY_NAN),
        )
        target = skip + (n.to(tl.int64) * size + y * width + x)[:, None] * C + channel[None, :]
        tl.store(target, tl.abs(sum_one - sum_other).to(kind), mask=inside[:, None])
    low = (low_y * low_width + low_x)[:, None] * C + channel[None, :]
    low_size = low_height * low_width * C
    tl.store(pooled + n.to(tl.int64) * low_size + low, most_one.to(kind), mask=inside[:, None])
    tl.store(pooled + (n + patches).to(tl.int64) * low_size + low, most_other.to(kind), mask=inside[:, None])


@triton.jit
def native_plain(
    features, weight, bias, out, per_set, pixels,
    IN: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Apply a 1x1 convolution and ReLU to a ready map. ``weight`` is (sets, IN, OUT), image n uses set n // per_set."""
    n = tl.program_id(2)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = (pixel < pixels)[:, None]
    row = (n.to(tl.int64) * pixels + pixel)[:, None]
    weight += n // per_set * IN * OUT
    sums = tl.zeros((BLOCK, BLOCK_OUT), tl.float32)
    for start in range(0, IN, BLOCK_IN):
        channel = start + tl.arange(0, BLOCK_IN)
        values = tl.load(features + row * IN + channel[None, :], mask=inside, other=0.0)
        sums += tl.dot(values, tl.load(weight + channel[:, None] * OUT + column[None, :]))
    sums = tl.maximum(
        sums + tl.load(bias + n // per_set * OUT + column)[None, :], 0.0, propagate_nan=EVERY_NAN
    )
    tl.store(out + row * OUT + column[None, :], sums.to(out.dtype.element_ty), mask=inside)


@triton.jit
def native_activated(
    native, aux, statistics, affine, weight, bias, out, per_set, pixels,
    HALF: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Apply a 1x1 convolution and ReLU to an MSDConv's halves. ``affine`` is (sets, 2, 2 HALF), scale and shift."""
    n = tl.program_id(2)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = (pixel < pixels)[:, None]
    row = (n.to(tl.int64) * pixels + pixel)[:, None]
    weight += n // per_set * 2 * HALF * OUT
    affine += n // per_set * 4 * HALF
    kind = out.dtype.element_ty
    sums = tl.zeros((BLOCK, BLOCK_OUT), tl.float32)
    for start in range(0, HALF, BLOCK_IN):
        channel = start + tl.arange(0, BLOCK_IN)
        values = tl.load(native + row * HALF + channel[None, :], mask=inside, other=0.0)
        values = _activated(values, tl.load(affine + channel), tl.load(affine + 2 * HALF + channel))
        sums += tl.dot(values.to(kind), tl.load(weight + channel[:, None] * OUT + column[None, :]))
    affine += HALF
    weight += HALF * OUT
    statistics += n * HALF * 2
    for start in range(0, HALF, BLOCK_IN):
        channel = start + tl.arange(0, BLOCK_IN)
        values = tl.load(aux + row * HALF + channel[None, :], mask=inside, other=0.0)
        values = _cooperated(values, tl.load(statistics + channel * 2), tl.load(statistics + channel * 2 + 1))
        values = _activated(values, tl.load(affine + channel), tl.load(affine + 2 * HALF + channel))
        sums += tl.dot(values.to(kind), tl.load(weight + channel[:, None] * OUT + column[None, :]))
    sums = tl.maximum(
        sums + tl.load(bias + n // per_set * OUT + column)[None, :], 0.0, propagate_nan=EVERY_NAN
    )
    tl.store(out + row * OUT + column[None, :], sums.to(kind), mask=inside)


@triton.jit
def native_upsampled(
    skip, native, aux, statistics, affine, weight_skip, weight_up, bias, out, height, width,
    SKIP: tl.constexpr, HALF: tl.constexpr, PLAIN: tl.constexpr, OUT: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_SKIP: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Apply the decoder's first ``native``: 1x1 convolution of the skip and transposed convolution of the deeper level.

    A program has BLOCK pixels of the deeper level and one of the four places under each. ``weight_up`` is
    (4, 2 HALF, OUT). PLAIN: the deeper level is one ready map of 2 HALF channels at ``native``.
    """
    n = tl.program_id(2).to(tl.int64)
    quad, part = tl.program_id(1) % 4, tl.program_id(1) // 4
    low_height, low_width = height // 2, width // 2
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = part * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = (pixel < low_height * low_width)[:, None]
    y, x = 2 * (pixel // low_width) + quad // 2, 2 * (pixel % low_width) + quad % 2
    row = (n * height * width + y * width + x)[:, None]
    low = (n * low_height * low_width + pixel)[:, None]
    weight_up += quad * 2 * HALF * OUT
    kind = out.dtype.element_ty
    sums = tl.zeros((BLOCK, BLOCK_OUT), tl.float32)
    for start in range(0, SKIP, BLOCK_SKIP):
        channel = start + tl.arange(0, BLOCK_SKIP)
        values = tl.load(skip + row * SKIP + channel[None, :], mask=inside, other=0.0)
        sums += tl.dot(values, tl.load(weight_skip + channel[:, None] * OUT + column[None, :]))
    if PLAIN:
        for start in range(0, 2 * HALF, BLOCK_IN):
            channel = start + tl.arange(0, BLOCK_IN)
            values = tl.load(native + low * 2 * HALF + channel[None, :], mask=inside, other=0.0)
            sums += tl.dot(values, tl.load(weight_up + channel[:, None] * OUT + column[None, :]))
    else:
        for start in range(0, HALF, BLOCK_IN):
            channel = start + tl.arange(0, BLOCK_IN)
            values = tl.load(native + low * HALF + channel[None, :], mask=inside, other=0.0)
            values = _activated(values, tl.load(affine + channel), tl.load(affine + 2 * HALF + channel))
            sums += tl.dot(values.to(kind), tl.load(weight_up + channel[:, None] * OUT + column[None, :]))
        affine += HALF
        weight_up += HALF * OUT
        statistics += n * HALF * 2
        for start in range(0, HALF, BLOCK_IN):
            channel = start + tl.arange(0, BLOCK_IN)
            values = tl.load(aux + low * HALF + channel[None, :], mask=inside, other=0.0)
            values = _cooperated(
                values, tl.load(statistics + channel * 2), tl.load(statistics + channel * 2 + 1)
            )
            values = _activated(values, tl.load(affine + channel), tl.load(affine + 2 * HALF + channel))
            sums += tl.dot(values.to(kind), tl.load(weight_up + channel[:, None] * OUT + column[None, :]))
    sums = tl.maximum(sums + tl.load(bias + column)[None, :], 0.0, propagate_nan=EVERY_NAN)
    tl.store(out + row * OUT + column[None, :], sums.to(kind), mask=inside)


@triton.jit
def _tap(origin, y, x, width, height, inside, CHANNELS: tl.constexpr, TAP: tl.constexpr):
    """Load one of the 25 taps of a CMConv: the middle, then 8 each of dilations 1, 3 and 6, row by row."""
    ring: tl.constexpr = (TAP - 1) % 8
    place: tl.constexpr = ring if ring < 4 else ring + 1
    scale: tl.constexpr = (TAP - 1) // 8 + 1
    # 1, 3 and 6 are the first triangular numbers.
    dilation: tl.constexpr = scale * (scale + 1) // 2
    row: tl.constexpr = (place // 3 - 1) * dilation
    col: tl.constexpr = (place % 3 - 1) * dilation
    there = inside & (y + row >= 0) & (y + row < height) & (x + col >= 0) & (x + col < width)
    return tl.load(origin + (row * width + col) * CHANNELS, mask=there[:, None], other=0.0)


@triton.jit
def cyclic(
    native, weight, bias, aux, partial, per_set, height, width,
    HALF: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Apply CMConv, norm and ReLU, and write the sums and sums of squares that SSFC needs.

    Its three convolutions are one of 25 taps by blocks of C channels, for the matrix units: ``weight`` is
    (sets, HALF / C, 25 C, C), first the middle's C x C (in, out), then six times four taps, (in, tap) x out. Four
    taps to a product, since every product costs a barrier. A program has ROWS x COLS pixels of C channels;
    ``partial`` is (images, programs along pixels, HALF, 2).
    """
    n = tl.program_id(2)
    part = tl.program_id(1)
    across = tl.cdiv(width, COLS)
    index = tl.arange(0, ROWS * COLS)
    y = tl.program_id(0) // across * ROWS + index // COLS
    x = tl.program_id(0) % across * COLS + index % COLS
    inside = (y < height) & (x < width)
    channel = tl.arange(0, C)
    image = native + n.to(tl.int64) * height * width * HALF + part * C
    origin = image + (y * width + x)[:, None] * HALF + channel[None, :]
    weight += (n // per_set * (HALF // C) + part) * 25 * C * C
    middle = tl.load(weight + channel[:, None] * C + channel[None, :])
    sums = tl.dot(tl.load(origin, mask=inside[:, None], other=0.0), middle)
    long = tl.arange(0, 4 * C)
    matrix = weight + C * C + long[:, None] * C + channel[None, :]
    for four in tl.static_range(6):
        even = tl.join(
            _tap(origin, y, x, width, height, inside, HALF, 4 * four + 1),
            _tap(origin, y, x, width, height, inside, HALF, 4 * four + 3),
        )
        odd = tl.join(
            _tap(origin, y, x, width, height, inside, HALF, 4 * four + 2),
            _tap(origin, y, x, width, height, inside, HALF, 4 * four + 4),
        )
        values = tl.reshape(tl.join(even, odd), (ROWS * COLS, 4 * C))
        sums += tl.dot(values, tl.load(matrix + four * 4 * C * C))
    sums = tl.maximum(
        sums + tl.load(bias + n // per_set * HALF + part * C + channel)[None, :], 0.0, propagate_nan=EVERY_NAN
    )
    target = aux + n.to(tl.int64) * height * width * HALF + part * C
    tl.store(
        target + (y * width + x)[:, None] * HALF + channel[None, :],
        sums.to(aux.dtype.element_ty),
        mask=inside[:, None],
    )
    sums = tl.where(inside[:, None], sums, 0.0)
    place = partial + ((n * tl.num_programs(0) + tl.program_id(0)) * HALF + part * C + channel) * 2
    tl.store(place, tl.sum(sums, 0))
    tl.store(place + 1, tl.sum(sums * sums, 0))


@triton.jit
def finish_statistics(
    partial, statistics, parts, pixels, eps, HALF: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr
):
    """Turn the partial sums of :func:`cyclic` into mean and ``1 / (2 variance + eps)``."""
    n = tl.program_id(0)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    total = tl.zeros((BLOCK, C), tl.float32)
    squares = tl.zeros((BLOCK, C), tl.float32)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        place = partial + ((n * parts + part)[:, None] * HALF + channel[None, :]) * 2
        total += tl.load(place, mask=(part < parts)[:, None], other=0.0)
        squares += tl.load(place + 1, mask=(part < parts)[:, None], other=0.0)
    mean = tl.sum(total, 0) / pixels
    variance = tl.maximum(tl.sum(squares, 0) / pixels - mean * mean, 0.0, propagate_nan=EVERY_NAN)
    tl.store(statistics + (n * HALF + channel) * 2, mean)
    tl.store(statistics + (n * HALF + channel) * 2 + 1, 1 / (2 * variance + eps))


@triton.jit
def encoder_output(
    native, aux, statistics, affine, skip, pooled, patches, height, width,
    HALF: tl.constexpr, POOL: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """End a level: write the absolute difference of the dates, and the 2x2 maxima of each if a deeper level follows."""
    n = tl.program_id(2).to(tl.int64)
    second: tl.constexpr = HALF // C
    part = tl.program_id(1)
    low_height, low_width = height // 2, width // 2
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (pixel < low_height * low_width)[:, None]
    channel = part % second * C + tl.arange(0, C)
    out_channel = part * C + tl.arange(0, C)
    kind = skip.dtype.element_ty
    scale_one, shift_one = tl.load(affine + out_channel), tl.load(affine + 2 * HALF + out_channel)
    scale_other, shift_other = (
        tl.load(affine + 4 * HALF + out_channel),
        tl.load(affine + 6 * HALF + out_channel),
    )
    most_one = tl.zeros((BLOCK, C), tl.float32)
    most_other = tl.zeros((BLOCK, C), tl.float32)
    size = height * width
    for quad in range(4):
        y, x = 2 * (pixel // low_width) + quad // 2, 2 * (pixel % low_width) + quad % 2
        at = (y * width + x)[:, None]
        one = (n * size + at) * HALF + channel[None, :]
        other = ((n + patches) * size + at) * HALF + channel[None, :]
        if part < second:
            value_one = tl.load(native + one, mask=inside, other=0.0).to(tl.float32)
            value_other = tl.load(native + other, mask=inside, other=0.0).to(tl.float32)
        else:
            first = statistics + (n * HALF + channel) * 2
            last = statistics + ((n + patches) * HALF + channel) * 2
            value_one = _cooperated(
                tl.load(aux + one, mask=inside, other=0.0), tl.load(first), tl.load(first + 1)
            )
            value_other = _cooperated(
                tl.load(aux + other, mask=inside, other=0.0), tl.load(last), tl.load(last + 1)
            )
        value_one = _activated(value_one, scale_one, shift_one)
        value_other = _activated(value_other, scale_other, shift_other)
        target = skip + (n * size + at) * 2 * HALF + out_channel[None, :]
        tl.store(target, tl.abs(value_one - value_other).to(kind), mask=inside)
        if POOL:
            most_one = tl.maximum(most_one, value_one, propagate_nan=EVERY_NAN)
            most_other = tl.maximum(most_other, value_other, propagate_nan=EVERY_NAN)
    if POOL:
        low_size = low_height * low_width
        low = pixel[:, None] * 2 * HALF + out_channel[None, :]
        tl.store(pooled + n * low_size * 2 * HALF + low, most_one.to(kind), mask=inside)
        tl.store(pooled + (n + patches) * low_size * 2 * HALF + low, most_other.to(kind), mask=inside)


@triton.jit
def head(native, aux, statistics, affine, weight, bias, out, pixels, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Apply the last 1x1 convolution and sigmoid; ``out`` is (patches, pixels) float32."""
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    channel = tl.arange(0, HALF)
    at = (n * pixels + pixel)[:, None] * HALF + channel[None, :]
    values = _activated(
        tl.load(native + at, mask=inside[:, None], other=0.0),
        tl.load(affine + channel),
        tl.load(affine + 2 * HALF + channel),
    )
    logit = tl.sum(values * tl.load(weight + channel)[None, :], 1)
    known = statistics + (n * HALF + channel) * 2
    values = _cooperated(
        tl.load(aux + at, mask=inside[:, None], other=0.0), tl.load(known), tl.load(known + 1)
    )
    affine += HALF
    values = _activated(values, tl.load(affine + channel), tl.load(affine + 2 * HALF + channel))
    logit += tl.sum(values * tl.load(weight + HALF + channel)[None, :], 1) + tl.load(bias)
    tl.store(out + n * pixels + pixel, tl.sigmoid(logit), mask=inside)


@triton.jit
def accumulate(
    probability, corners, taper, total, weight, count, rows, cols, top, left, patch,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Add the first ``count`` patches of a batch, in their order, to the weighted sum over a core and to its weight.

    ``total`` and ``weight`` are (rows, cols) float32, their first pixel is (top, left) of the tile that ``corners``
    count in. A program has ROWS x COLS pixels of the core.
    """
    first_y, first_x = tl.program_id(0) * ROWS, tl.program_id(1) * COLS
    y, x = first_y + tl.arange(0, ROWS), first_x + tl.arange(0, COLS)
    inside = (y < rows)[:, None] & (x < cols)[None, :]
    here = y[:, None] * cols + x[None, :]
    sums = tl.load(total + here, mask=inside, other=0.0)
    weights = tl.load(weight + here, mask=inside, other=0.0)
    for number in range(count):
        corner_y, corner_x = tl.load(corners + 2 * number) - top, tl.load(corners + 2 * number + 1) - left
        above = (corner_y < first_y + ROWS) & (corner_y + patch > first_y)
        if above & (corner_x < first_x + COLS) & (corner_x + patch > first_x):
            in_y, in_x = y - corner_y, x - corner_x
            covered = (
                inside & ((in_y >= 0) & (in_y < patch))[:, None] & ((in_x >= 0) & (in_x < patch))[None, :]
            )
            at = in_y[:, None] * patch + in_x[None, :]
            share = tl.load(taper + at, mask=covered, other=0.0)
            sums += share * tl.load(probability + number * patch * patch + at, mask=covered, other=0.0)
            weights += share
    tl.store(total + here, sums, mask=inside)
    tl.store(weight + here, weights, mask=inside)
