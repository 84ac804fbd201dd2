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

Feature = Literal["pixels", "gradients"]

BAND = 0.15
"""Standard deviation of the weight over spatial frequency, cycles per pixel.

Phase correlation over all frequencies is drawn to whole pixels, because the highest ones hold aliases, which do not
move with the scene. Measured on Sentinel-2 pixels averaged in blocks of four, true shift 0.25 px: 0.17 px without a
weight, 0.24 px with 0.2, 0.247 px with this one; at 0.1 windows of real pairs scatter by half as much again.
"""

UPSAMPLING = 100
"""Steps a pixel in which the correlation peak is located."""

RECENTRINGS = 3
"""Most often that a window is cut again around a better whole-pixel shift."""

MASK_RAMP = 8
"""Distance from invalid pixels, pixels, over which the weight of the valid ones rises to 1."""

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
    values = image[valid].astype(np.float64)
    low, middle, high = np.percentile(values, (16, 50, 84))
    result = np.zeros(image.shape, np.float32)
    if spread := max(high - low, 1e-6 * float(values.std())):
        result[valid] = np.clip((values - middle) / spread, -4, 4)
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
    from skimage.registration import phase_cross_correlation

    whole, cut = np.zeros(2, int), None
    shift, quality = np.zeros(2), 0.0
    for turn in range(RECENTRINGS + 1):
        if cut is None or (whole != cut).any():
            parts = _shared_parts(before, after, valid, (int(whole[0]), int(whole[1])))
            if parts is None:
                return float(shift[0]), float(shift[1]), 0.0
            spectra, cut = [fft.fft2(part) for part in parts], whole
        if turn == 0:
            moved, _, _ = phase_cross_correlation(*spectra, space="fourier", normalization="phase")
            shift = -np.asarray(moved, np.float64)
        else:
            bands = [_band_of_phases(spectrum) for spectrum in spectra]
            moved, error, _ = phase_cross_correlation(
                *bands, space="fourier", normalization=None, upsample_factor=UPSAMPLING
            )
            shift = whole - np.asarray(moved, np.float64)
            quality = float(np.sqrt(max(0.0, 1 - float(error) ** 2)))
        nearest = np.rint(shift).astype(int)
        if turn and (nearest == whole).all():
            break
        whole = nearest
    return float(shift[0]), float(shift[1]), quality


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
    taper = np.outer(*(np.hanning(length + 2)[1:-1] for length in known.shape))
    if not known.all():
        if known.mean() < MIN_VALID / 2:
            return None
        # A hard edge would be the same in both dates, and so a peak at zero.
        reach = ndimage.distance_transform_edt(np.pad(known, 1, constant_values=True))[1:-1, 1:-1]
        taper *= 0.5 - 0.5 * np.cos(np.pi * np.minimum(reach / MASK_RAMP, 1))
    total = taper.sum()
    tapered: list[FloatArray] = []
    for image in (before[here], after[there]):
        mean = (image * taper).sum() / total
        tapered.append(((image - mean) * taper).astype(np.float32))
    if not (tapered[0].any() and tapered[1].any()):
        return None
    return tapered[0], tapered[1]


def _band_of_phases(spectrum: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """Return the spectrum with all amplitudes replaced by a smooth weight that falls with the frequency."""
    amplitude = np.abs(spectrum)
    floor = 1e-6 * float(amplitude.max()) + np.finfo(np.float32).tiny
    phases = spectrum / np.maximum(amplitude, floor)
    return (phases * _weight(*spectrum.shape)).astype(np.complex64, copy=False)


@functools.lru_cache(8)
def _weight(rows: int, cols: int) -> FloatArray:
    down, right = (fft.fftfreq(length).astype(np.float32) for length in (rows, cols))
    result: FloatArray = np.exp(-(down[:, None] ** 2 + right[None, :] ** 2) / (2 * BAND**2))
    return result
