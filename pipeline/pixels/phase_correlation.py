"""Shift between two windows of one place, measured by phase correlation.

Everything is in pixels of the common grid and in the order (y, x). With a shift ``(dy, dx)`` the content of ``before``
at ``(y, x)`` lies in ``after`` at ``(y + dy, x + dx)``, so that sampling ``after`` there registers it to ``before``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from ussfc.pipeline.types import BoolArray, FloatArray

ComplexArray = npt.NDArray[np.complex64]
Feature = Literal["pixels", "gradients"]

BAND = 0.15
"""Standard deviation of the weight over spatial frequency, cycles per pixel.

Phase correlation over all frequencies is drawn to whole pixels, because the highest ones hold aliases, which do not
move with the scene. Measured on Sentinel-2 pixels averaged in blocks of four, true shift 0.25 px: 0.17 px without a
weight, 0.24 px with 0.2, 0.247 px with this one; at 0.1 windows of real pairs scatter by half as much again.
"""

FINER = tuple(step * np.arange(-2, 3) for step in (0.4, 0.1, 0.02, 0.01))
"""Places around the best one so far, pixels, where the correlation is evaluated, one set after the other.

The weight makes peaks of more than two pixels, so that none is lost between them; along the ridge that stripes make, a
shift is not determined, and another place on it may be found.
"""

RECENTRINGS = 3
"""Most often that a window is cut again around a better whole-pixel shift."""

MASK_RAMP = 8
"""Distance from invalid pixels, pixels, over which the weight of the valid ones rises to 1."""

FOR_PERCENTILES = 8192
"""About as many pixels of a window tell the spread of its values; all of them in small windows."""

MIN_VALID = 0.6
"""Least share of valid pixels in a window that is measured."""

NOISE_PEAK = 24.0
"""Quality times side, pixels, below which a window takes no part: nine of ten unrelated windows stay below it.

Measured on windows of different Sentinel-2 scenes: 0.18 at 128 pixels, 0.10 at 256.
"""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of the common grid."""

    y: int
    """First row, pixels."""
    x: int
    """First column, pixels."""
    size: int
    """Side, pixels."""

    @property
    def centre(self) -> tuple[float, float]:
        """Return the centre as (y, x), pixels, where whole numbers are centres of pixels."""
        return self.y + (self.size - 1) / 2, self.x + (self.size - 1) / 2


@dataclass(frozen=True, slots=True)
class WindowShift:
    """The shift measured in one window."""

    window: Window
    """Place of the measurement, in the pixels of ``before``."""
    dy: float
    """Rows from the content in ``before`` to the same content in ``after``, pixels."""
    dx: float
    """Columns likewise, pixels."""
    quality: float
    """Height of the correlation peak, 0 to 1: 1 for copies, below 0.1 for windows that show different things."""
    feature: Feature = "pixels"
    """Quantity that was correlated: pixel values, or the lengths of their gradients."""


def choose_windows(
    shape: tuple[int, int], seed: int, count: int, size: int, aligned: bool = False
) -> tuple[Window, ...]:
    """Return windows spread over an image: one at a random place in each cell of a regular grid.

    The same arguments give the same windows. Neighbours overlap by at most about half on average, aligned ones not at
    all.

    Args:
        shape: (rows, cols) of the image, pixels.
        seed: of the random places, at least 0.
        count: largest number of windows, at least 1.
        size: side of a window, pixels, at least 16.
        aligned: begin at multiples of the side: a window of 256 pixels then lies in one block of the file, where blocks
            are of 256, 512 or 1024 pixels, and would else lie in two or three on average.

    Returns:
        Windows in row order, at most ``count``; none if the image is smaller than one.

    Raises:
        ValueError: ``count`` or ``size`` is too small.
    """
    if count < 1 or size < 16:
        raise ValueError(
            f"{count} windows of {size} pixels: expected at least 1 window of at least 16 pixels"
        )
    if min(shape) < size:
        return ()
    step = size if aligned else 1
    places = [1 + (length - size) // step for length in shape]
    most = places if aligned else [1 + 2 * (length - size) // size for length in shape]
    rows = min(most[0], count, max(1, round((count * shape[0] / shape[1]) ** 0.5)))
    cols = min(most[1], max(1, count // rows))
    rows = min(most[0], max(rows, count // cols))
    rng = np.random.default_rng(seed)
    jitter = rng.random((rows, cols, 2))
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1)
    corners = step * np.floor((cells + jitter) / (rows, cols) * np.array(places)).astype(int)
    windows = [Window(int(y), int(x), size) for y, x in corners.reshape(-1, 2)]
    # Aligned ones of neighbouring cells may be the same.
    return tuple(dict.fromkeys(windows) if aligned else windows)


def measure_shift(
    window: Window,
    before: FloatArray,
    after: FloatArray,
    valid: BoolArray | None = None,
    feature: Feature | Literal["auto"] = "auto",
) -> WindowShift | None:
    """Return the shift between two windows of one place, or None where they hold too little.

    Gain and offset of either date do not matter, nor does a change of sign. The search reaches about a third of
    the window's side.

    Args:
        window: place of both, for the record.
        before: (size, size) float32, any unit.
        after: (size, size) float32, any unit.
        valid: (size, size), True where both dates have data that show the ground; None: everywhere.
        feature: ``pixels`` correlates pixel values, ``gradients`` the lengths of their gradients, which agree where
            a season or another sensor turns bright into dark; ``auto`` takes gradients where they match better.

    Raises:
        ValueError: an array is not of the window's size, or a valid pixel is not finite.
    """
    shape = (window.size, window.size)
    known = np.ones(shape, np.bool_) if valid is None else valid
    if before.shape != shape or after.shape != shape or known.shape != shape:
        raise ValueError(f"windows of {before.shape}, {after.shape}, {known.shape} pixels: expected {shape}")
    if known.mean() < MIN_VALID:
        return None
    if not (np.isfinite(before[known]).all() and np.isfinite(after[known]).all()):
        raise ValueError("a valid pixel is not finite")
    dates = _filled(before, known), _filled(after, known)
    if any(_is_flat(date, known) for date in dates):
        return None
    found: list[WindowShift] = []
    for chosen in ("pixels", "gradients") if feature == "auto" else (feature,):
        images = dates if chosen == "pixels" else (_gradient_length(dates[0]), _gradient_length(dates[1]))
        dy, dx, quality = _located(images[0], images[1], known)
        found.append(WindowShift(window, dy, dx, quality, chosen))
        if quality * window.size >= 2 * NOISE_PEAK:
            # Pixels place a peak better than gradients do; these are asked where pixels hardly match.
            break
    return max(found, key=lambda shift: shift.quality)


def _filled(image: FloatArray, valid: BoolArray) -> FloatArray:
    """Return the image about zero, with a spread of about one, and zero where it is not valid.

    Far values are cut: a cloud in one date would otherwise outweigh the ground in both.
    """
    values = image[valid]
    # An odd step, so that they are of all columns of a window without gaps.
    some = values[:: values.size // FOR_PERCENTILES | 1].astype(np.float64)
    low, middle, high = np.percentile(some, (16, 50, 84))
    result = np.zeros(image.shape, np.float32)
    if spread := max(high - low, 1e-6 * float(values.std(dtype=np.float64))):
        result[valid] = np.clip((values - np.float32(middle)) / np.float32(spread), -4, 4)
    return result


def _is_flat(image: FloatArray, valid: BoolArray) -> bool:
    """Return True if less than a hundredth of the pixels differ from the middle value."""
    return bool(np.count_nonzero(image[valid]) < 0.01 * image.size)


def _gradient_length(image: FloatArray) -> FloatArray:
    down, right = (ndimage.gaussian_filter(image, 1.0, order) for order in ((1, 0), (0, 1)))
    result: FloatArray = np.hypot(down, right)
    return result


def _located(before: FloatArray, after: FloatArray, valid: BoolArray) -> tuple[float, float, float]:
    """Return dy, dx, pixels, and the quality of the peak.

    Both windows are cut to the part that they share under a whole-pixel shift, so that tapers and masks, which do not
    move with the content, cannot draw the answer towards zero.
    """
    whole, cut = (0, 0), None
    shift, quality = (0.0, 0.0), 0.0
    for turn in range(RECENTRINGS + 1):
        if whole != cut:
            parts = _shared_parts(before, after, valid, whole)
            if parts is None:
                return (*shift, 0.0)
            (rows, cols), cut = parts[0].shape, whole
            product = _phases(parts[0]).conj() * _phases(parts[1])
        if turn == 0:
            y, x = whole_peak(product, cols)
            shift = float(y), float(x)
        else:
            weighted = product * _weight(rows, cols)
            dy, dx, height = fine_peak(weighted, cols)
            shift = whole[0] + dy, whole[1] + dx
            quality = min(1.0, height / float((_columns(cols) * np.abs(weighted)).sum()))
        nearest = round(shift[0]), round(shift[1])
        if turn and nearest == whole:
            break
        whole = nearest
    return (*shift, quality)


def _shared_parts(
    before: FloatArray, after: FloatArray, valid: BoolArray, whole: tuple[int, int]
) -> tuple[FloatArray, FloatArray] | None:
    """Return the tapered parts of both windows that show the same ground under a whole-pixel shift.

    None if less than two thirds of a side, too few valid pixels or no texture would be left.
    """
    size = before.shape[0]
    if max(abs(step) for step in whole) > size // 3:
        return None
    there = tuple(slice(max(0, step), size + min(0, step)) for step in whole)
    here = tuple(slice(max(0, -step), size - max(0, step)) for step in whole)
    known = valid[here] & valid[there]
    taper = _taper(*known.shape)
    if not known.all():
        if known.mean() < MIN_VALID / 2:
            return None
        # A hard edge would be the same in both dates, and so a peak at zero.
        reach = ndimage.distance_transform_edt(np.pad(known, 1, constant_values=True))[1:-1, 1:-1]
        taper = taper * (0.5 - 0.5 * np.cos(np.pi * np.minimum(reach / MASK_RAMP, 1)).astype(np.float32))
    total = taper.sum()
    tapered: list[FloatArray] = []
    for image in (before[here], after[there]):
        mean = (image * taper).sum() / total
        tapered.append((image - mean) * taper)
    if not (tapered[0].any() and tapered[1].any()):
        return None
    return tapered[0], tapered[1]


@functools.lru_cache(8)
def _taper(rows: int, cols: int) -> FloatArray:
    result: FloatArray = np.outer(*(np.hanning(length + 2)[1:-1] for length in (rows, cols))).astype(
        np.float32
    )
    return result


def _phases(image: FloatArray) -> ComplexArray:
    """Return the spectrum of an image as of ``rfft2``, with all amplitudes replaced by one."""
    spectrum = fft.rfft2(image)
    amplitude = np.abs(spectrum)
    floor = 1e-6 * float(amplitude.max()) + np.finfo(np.float32).tiny
    result: ComplexArray = spectrum / np.maximum(amplitude, floor)
    return result


def whole_peak(product: ComplexArray, cols: int) -> tuple[int, int]:
    """Return where the correlation of two images is largest, without regard to its sign, in whole pixels.

    Args:
        product: (rows, cols // 2 + 1) spectrum of the one times the conjugate spectrum of the other, as of ``rfft2``.
        cols: columns of the images.
    """
    correlation = np.abs(fft.irfft2(product, (product.shape[0], cols)))
    rows = correlation.shape[0]
    y, x = divmod(int(correlation.argmax()), cols)
    return (y - rows if y > rows // 2 else y), (x - cols if x > cols // 2 else x)


def fine_peak(product: ComplexArray, cols: int) -> tuple[float, float, float]:
    """Return dy, dx, in steps of a hundredth of a pixel, and the height of the peak; arguments as above.

    The correlation is evaluated between pixels by matrices of Fourier terms (Guizar-Sicairos et al., Optics Letters
    2008), closer and closer to where it is largest.
    """
    y, x = (float(place) for place in whole_peak(product, cols))
    height = 0.0
    down = 2j * np.pi * fft.fftfreq(product.shape[0])[:, None]
    right = 2j * np.pi * fft.rfftfreq(cols)[:, None]
    weighted = product * _columns(cols)
    for offsets in FINER:
        below = np.exp((y + offsets)[:, None, None] * down).astype(np.complex64)
        beside = np.exp(right * (x + offsets)).astype(np.complex64)
        # Not one product of matrices: the threads of BLAS take longer to wait for each other than this takes.
        lines = np.stack([(terms * weighted).sum(0) for terms in below])
        correlation = np.abs((lines @ beside).real)
        row, col = divmod(int(correlation.argmax()), len(offsets))
        height = float(correlation[row, col])
        y, x = round(y + float(offsets[row]), 2), round(x + float(offsets[col]), 2)
    return y, x, height


@functools.lru_cache(8)
def _columns(cols: int) -> FloatArray:
    """Return how often each column of a half spectrum stands in the whole one, ``(cols // 2 + 1,)``."""
    result = np.full(cols // 2 + 1, 2, np.float32)
    result[0] = 1
    if cols % 2 == 0:
        result[-1] = 1
    return result


@functools.lru_cache(8)
def _weight(rows: int, cols: int) -> FloatArray:
    """Return a smooth weight that falls with the frequency, ``(rows, cols // 2 + 1)``, for a product of two spectra."""
    down, right = fft.fftfreq(rows).astype(np.float32), fft.rfftfreq(cols).astype(np.float32)
    result: FloatArray = np.exp(-(down[:, None] ** 2 + right[None, :] ** 2) / BAND**2)
    return result
