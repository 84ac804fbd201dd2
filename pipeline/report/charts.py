"""Plots of a report as SVG, drawn in the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ussfc.pipeline.types import Box

WIDTH, HEIGHT = 520, 200
"""Size of a plot, units of its own."""

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34
"""Margins for the labels."""

TICKS = 4
"""Lines across a plot."""


@dataclass(frozen=True)
class Axis:
    """Horizontal axis: places in [0, 1] and their labels."""

    ticks: Sequence[tuple[float, str]]
    label: str


def bars(counts: Sequence[int], axis: Axis, what: str, names: Sequence[str]) -> Markup:
    """Return a histogram.

    Args:
        counts: one number a class.
        axis: below it.
        what: description for screen readers, one sentence.
        names: description of each class, which a pointer shows.
    """
    top = _rounded_up(max([*counts, 1]))
    inner = WIDTH - LEFT - RIGHT
    step = inner / len(counts)
    shapes = []
    for place, (count, name) in enumerate(zip(counts, names, strict=True)):
        height = (HEIGHT - TOP - BOTTOM) * count / top
        shapes.append(
            f'<rect class="bar" x="{LEFT + place * step + 1:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" '
            f'width="{max(1, step - 2):.1f}" height="{height:.1f}" rx="1.5">'
            f"<title>{escape(name)}: {count:,}</title></rect>"
        )
    return _plot("".join(shapes), axis, _levels(top), what)


def rows(values: Sequence[tuple[str, float]], unit: str, what: str) -> Markup:
    """Return bars from left to right, each with its name and its number.

    Args:
        values: name and number of each, the largest first.
        unit: of the numbers.
        what: description for screen readers, one sentence.
    """
    top = max([number for _, number in values] + [1e-12])
    left, right = 76, 96
    step = (HEIGHT - 2 * TOP) / max(len(values), 4)
    shapes = []
    for place, (name, number) in enumerate(values):
        y = TOP + place * step
        width = (WIDTH - left - right) * number / top
        shapes.append(
            f'<text x="{left - 8}" y="{y + step / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar" x="{left}" y="{y + step * 0.2:.1f}" width="{max(1, width):.1f}" '
            f'height="{step * 0.6:.1f}" rx="1.5"/>'
            f'<text x="{left + width + 8:.1f}" y="{y + step / 2 + 4:.1f}">{number:.3g} {escape(unit)}</text>'
        )
    return Markup(  # noqa: S704 - names are escaped
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(what)}">'
        f"{''.join(shapes)}</svg>"
    )


def curve(
    points: Sequence[tuple[float, float]], axis: Axis, top: float, unit: str, mark: float, what: str
) -> Markup:
    """Return a falling or rising line with a mark at one place.

    Args:
        points: (place, height) in [0, 1] and in ``unit``.
        axis: below it.
        top: largest height.
        unit: of the heights, for the labels.
        mark: place of the mark, in [0, 1].
        what: description for screen readers, one sentence.
    """
    top = _rounded_up(top)
    path = " ".join(f"{_x(place):.1f},{_y(height / top):.1f}" for place, height in points)
    area = f"{_x(points[0][0]):.1f},{_y(0):.1f} {path} {_x(points[-1][0]):.1f},{_y(0):.1f}"
    shapes = (
        f'<polygon class="area" points="{area}"/><polyline class="line" points="{path}"/>'
        f'<line class="mark" x1="{_x(mark):.1f}" x2="{_x(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="marked" x="{_x(mark) + 5:.1f}" y="{TOP + 9}">threshold</text>'
    )
    levels = [(level, f"{label} {unit}".strip()) for level, label in _levels(top, whole=False)]
    return _plot(shapes, axis, levels, what)


def arrows(
    windows: Sequence[tuple[float, float, float, float, bool]],
    shape: tuple[int, int],
    scale: float,
    what: str,
) -> Markup:
    """Return vectors on a map of the grid.

    Args:
        windows: (row, column) of each centre, (dy, dx) of its vector, pixels, and whether it agrees.
        shape: (rows, cols) of the grid.
        scale: pixels of the grid that a vector of one pixel is drawn as.
        what: description for screen readers, one sentence.
    """
    rows, cols = shape
    unit = max(rows, cols) / 100
    shapes = []
    for row, column, dy, dx, agrees in windows:
        end = column + dx * scale, row + dy * scale
        kind = "agrees" if agrees else "differs"
        shapes.append(
            f'<g class="{kind}"><line x1="{column:.1f}" y1="{row:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
            f'stroke-width="{unit * 0.6:.2f}"/><circle cx="{column:.1f}" cy="{row:.1f}" r="{unit * 0.9:.2f}"/>'
            f"<title>{dx:+.2f} px in x, {dy:+.2f} px in y</title></g>"
        )
    return _map("".join(shapes), shape, what)


def tile_map(tile_size: int, failed: Sequence[Box], shape: tuple[int, int], what: str) -> Markup:
    """Return the grid of tiles, failed ones marked.

    Args:
        tile_size: side of a tile, pixels.
        failed: cores of the tiles that failed.
        shape: (rows, cols) of the grid.
        what: description for screen readers, one sentence.
    """
    rows, cols = shape
    lines = [
        f'<line class="edge" x1="{x}" x2="{x}" y1="0" y2="{rows}"/>'
        for x in range(tile_size, cols, tile_size)
    ]
    lines += [
        f'<line class="edge" y1="{y}" y2="{y}" x1="0" x2="{cols}"/>'
        for y in range(tile_size, rows, tile_size)
    ]
    holes = [
        f'<rect class="failed" x="{box.x0}" y="{box.y0}" width="{box.x1 - box.x0}" height="{box.y1 - box.y0}">'
        f"<title>rows {box.y0} to {box.y1}, columns {box.x0} to {box.x1}: failed</title></rect>"
        for box in failed
    ]
    return _map("".join([*holes, *lines]), shape, what)


def _map(shapes: str, shape: tuple[int, int], what: str) -> Markup:
    rows, cols = shape
    return Markup(  # noqa: S704 - numbers, and text that is escaped
        f'<svg class="map" role="img" viewBox="0 0 {cols} {rows}" preserveAspectRatio="xMidYMid meet">'
        f"<title>{escape(what)}</title>"
        f'<rect class="ground" width="{cols}" height="{rows}"/>{shapes}</svg>'
    )


def _plot(shapes: str, axis: Axis, levels: Sequence[tuple[float, str]], what: str) -> Markup:
    lines = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(level):.1f}" y2="{_y(level):.1f}"/>'
        f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{_y(level) + 3.5:.1f}">{escape(label)}</text>'
        for level, label in levels
    )
    ticks = "".join(
        f'<text class="tick" text-anchor="middle" x="{_x(place):.1f}" y="{HEIGHT - BOTTOM + 14}">{escape(label)}</text>'
        for place, label in axis.ticks
    )
    label = f'<text class="label" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}">'
    return Markup(  # noqa: S704 - numbers, and text that is escaped
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {HEIGHT}"><title>{escape(what)}</title>{lines}{shapes}'
        f"{ticks}{label}{escape(axis.label)}</text></svg>"
    )


def _x(place: float) -> float:
    return LEFT + place * (WIDTH - LEFT - RIGHT)


def _y(level: float) -> float:
    return HEIGHT - BOTTOM - level * (HEIGHT - TOP - BOTTOM)


def _levels(top: float, whole: bool = True) -> list[tuple[float, str]]:
    steps = TICKS if top >= TICKS or not whole else max(1, int(top))
    return [(step / steps, f"{step * top / steps:,.4g}") for step in range(steps + 1)]


def _rounded_up(value: float) -> float:
    """Return a number not below ``value`` that four lines divide well."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value > 0:
        power /= 10
    return next(
        power * factor for factor in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10) if power * factor >= value
    )
