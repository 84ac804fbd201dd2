"""Pictures of a page: colours of scenes and changes, encoded small."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np

# Known before the first picture is saved, or Pillow imports all of its formats: a tenth of a second.
from PIL import (
    Image,
    WebPImagePlugin,  # noqa: F401
)

from ussfc.pipeline.rasters import styles
from ussfc.pipeline.report.overviews import DateViews
from ussfc.pipeline.types import BoolArray, ByteArray, FloatArray

CHANGE_COLOR = styles.CHANGE_COLOR[:3]
"""Red, green, blue of change."""

EMPTY_COLOR = (226, 226, 226)
"""Red, green, blue where there is no data."""

ENDS = (1.0, 99.0)
"""Percentiles of both dates together that become black and white."""

MOST_SAMPLED = 60_000
"""Pixels of each date that percentiles are taken from: of all of them they differ by less than is seen."""

COMMON_COLORS = ("red", "green", "blue")

QUALITY = 78
"""Quality of WebP for imagery, 0 to 100."""

EFFORT = 20
"""Effort of lossless WebP, 0 to 100."""


def color_bands(common_names: Sequence[str | None]) -> tuple[int, int, int]:
    """Return the places of red, green and blue among a model's bands; the first ones where it has no such names."""
    if all(color in common_names for color in COMMON_COLORS):
        red, green, blue = (list(common_names).index(color) for color in COMMON_COLORS)
        return red, green, blue
    last = len(common_names) - 1
    return 0, min(1, last), min(2, last)


def stretch_ends(views: DateViews, bands: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Return the numbers of each colour that become black and white, the same for both dates.

    Args:
        views: both dates.
        bands: places of red, green and blue.

    Returns:
        Two arrays (3,); 0 and 1 where nothing is valid.
    """
    rows, cols = views.before.shape[1:]
    step = max(1, math.ceil(np.sqrt(rows * cols / MOST_SAMPLED)))
    dates = zip((views.before, views.after), views.valid, strict=True)
    thinned = [(date[:, ::step, ::step][list(bands)], valid[::step, ::step]) for date, valid in dates]
    known = np.concatenate([date[:, valid] for date, valid in thinned], axis=1)
    if not known.size:
        return np.zeros(3, np.float32), np.ones(3, np.float32)
    low, high = np.percentile(known, ENDS, axis=1).astype(np.float32)
    return low, np.maximum(high, low + np.float32(1e-3))


def colored(
    image: FloatArray, valid: BoolArray, bands: Sequence[int], ends: tuple[FloatArray, FloatArray]
) -> ByteArray:
    """Return one date in colours, (rows, cols, 3).

    Args:
        image: (bands, rows, cols).
        valid: (rows, cols).
        bands: places of red, green and blue.
        ends: from :func:`stretch_ends`.
    """
    low, high = (end[:, None, None] for end in ends)
    scaled = np.clip((image[list(bands)] - low) / (high - low), 0, 1)
    # Reflectances are linear, screens are not; the full curve would wash roofs out.
    # Without data a number may be none, which is no byte either.
    bytes_ = np.rint(255 * np.nan_to_num(scaled) ** 0.8).astype(np.uint8)
    return np.where(valid[..., None], np.moveaxis(bytes_, 0, -1), np.array(EMPTY_COLOR, np.uint8))


def outlined(picture: ByteArray, changed: BoolArray) -> ByteArray:
    """Return a picture with the edges of the changed pixels drawn in, (rows, cols, 3)."""
    padded = np.pad(changed, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & padded[1:-1, 1:-1]
    found = picture.copy()
    found[changed & ~inside] = CHANGE_COLOR
    return found


def tinted(picture: ByteArray, changed: BoolArray, opacity: float = 0.75) -> ByteArray:
    """Return a picture with the changed pixels in the colour of change, (rows, cols, 3)."""
    found = picture.astype(np.float32)
    found[changed] += opacity * (np.array(CHANGE_COLOR, np.float32) - found[changed])
    return np.rint(found).astype(np.uint8)


def enlarged(picture: ByteArray, least: int) -> ByteArray:
    """Repeat pixels until the shorter side has about so many: browsers would blur a small change."""
    factor = max(1, least // max(1, min(picture.shape[:2])))
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)


def shrunk(picture: ByteArray, most: int) -> ByteArray:
    """Average a picture so that its longer side has at most so many pixels."""
    if max(picture.shape[:2]) <= most:
        return picture
    image = Image.fromarray(picture)
    image.thumbnail((most, most), Image.Resampling.BOX)
    return np.asarray(image)


def webp(picture: ByteArray, lossless: bool = False, quality: int = QUALITY) -> bytes:
    """Encode a picture, (rows, cols) or (rows, cols, 3), as WebP."""
    # Of a lossless picture the quality is the effort: 78 takes twice as long for the same bytes.
    target = io.BytesIO()
    Image.fromarray(picture).save(
        target, "WEBP", quality=EFFORT if lossless else quality, lossless=lossless, method=2
    )
    return target.getvalue()


def png(image: Image.Image) -> bytes:
    """Encode a picture as PNG, with a palette of 256 colours: imagery takes a third of the bytes."""
    target = io.BytesIO()
    image.quantize(256, Image.Quantize.FASTOCTREE).save(target, "PNG", optimize=True)
    return target.getvalue()


def data_address(encoded: bytes, kind: str = "webp") -> str:
    """Return an encoded picture as the address of an ``img`` element."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
