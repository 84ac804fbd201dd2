"""Draw the pictures of docs/gallery.md: each case as it comes, as the map then is, and after the remedy.

    python benchmarks/gallery.py [CASE ...] [--out DIR] [--infrared AFTER] [--fields BEFORE AFTER] [--roofs IMAGE MASK]

Most cases are made of the demo pair. The others are drawn where their images are given: the later date of the demo
with four bands (beirut of OSCD), a pair of Sentinel-2 with fields (saclay_e of OSCD), an image of about 0.2 m and the
mask of its buildings. Prints the share that changed, and what a run warns of.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import matplotlib as mpl
import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from radiometry_sweep import HAZE, cloud_cover, clouded
from scipy import ndimage
from scipy.spatial import KDTree

from ussfc import load_config, run
from ussfc.pipeline.runs.register import register_scenes
from ussfc.training.synthesis.filters import blend, move, soften

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

DEMO = Path(str(resources.files("ussfc.configs").joinpath("demo")))
VIEW = (slice(10, 310), slice(440, 740))
"""Rows and columns of the demo that are shown: the eastern harbour."""

SHARED, FALSE, MISSED, HIDDEN = "#56b4e9", "#ff7a1a", "#f0e442", "#4a4a4a"
"""Change of both pairs, of this pair alone, of the clean pair alone, nodata; apart for colour-blind people too."""

LEGEND = {
    "change in the pair as it is, too": SHARED,
    "change because of it": FALSE,
    "change that is lost": MISSED,
    "no data": HIDDEN,
}

Pixels = np.ndarray


@dataclass(frozen=True)
class Case:
    """A later date that something is wrong with, and what is done about it."""

    title: str
    change: Callable[[Pixels], Pixels]
    wrong: tuple[str, ...]
    wrong_title: str
    mended: tuple[str, ...]
    mended_title: str
    declared: dict[str, object] = field(default_factory=dict)
    """What the mended file states beside that."""
    names: tuple[str, ...] = ("B04", "B03", "B02")
    better_names: tuple[str, ...] = ()
    moved_px: float = 0.0
    infrared: bool = False


CLOUDS = 0.1
"""Share of the image under clouds."""


def wedge(image: Pixels) -> Pixels:
    """Return an image with a corner of zeros, as at the edge of an orbit."""
    rows, cols = np.mgrid[0 : image.shape[1], 0 : image.shape[2]]
    return np.where(cols - 0.35 * rows > 590, 0, image)


def hazy(image: Pixels) -> Pixels:
    """Return an image under thick haze."""
    return 0.9 * image + 1.5 * HAZE[:3]


CASES = {
    "misregistered": Case(
        "3 px beside",
        lambda image: image,
        ("registration=off",),
        "--registration off",
        (),
        "default",
        moved_px=3,
    ),
    "offset": Case(
        "+ 1000",
        lambda image: image + 1000,
        ("radiometry=model",),
        "--radiometry model",
        (),
        "default",
    ),
    "clouds": Case(
        "clouds",
        clouded(CLOUDS),
        (),
        "default",
        ("masks.after={mask}", "masks.dilation_m=60"),
        "--mask-after clouds.tif",
    ),
    "haze": Case(
        "haze",
        hazy,
        (),
        "default",
        ("radiometry=match",),
        "--radiometry match",
    ),
    "edges": Case(
        "zeros, not declared",
        wedge,
        (),
        "default",
        (),
        "0 declared as nodata",
        declared={"nodata": 0},
    ),
    "bands": Case(
        "infrared first",
        lambda image: image[[3, 0, 1, 2]],
        (),
        "no names: by position",
        (),
        "bands with names",
        names=("", "", "", ""),
        better_names=("B08", "B04", "B03", "B02"),
        infrared=True,
    ),
}
"""Cases by the names of their pictures."""


def write(path: Path, pixels: Pixels, profile: dict, names: tuple[str, ...]) -> Path:
    """Write digital numbers as a GeoTIFF."""
    with rasterio.open(path, "w", **{**profile, "count": len(pixels)}) as file:
        file.write(np.clip(np.rint(pixels.astype(np.float32)), 0, 65535).astype(profile["dtype"]))
        file.descriptions = names
    return path


def read(path: Path) -> tuple[Pixels, dict]:
    """Return the pixels of a file, and its profile."""
    with rasterio.open(path) as file:
        return file.read().astype(np.float32), dict(file.profile)


def classes(before: Path, after: Path, out: Path, *sets: str, like: dict | None = None) -> Pixels:
    """Run a pair, print what it warns of, and return the classes, on the grid of a profile where one is given."""
    config = load_config(sets=["output.report=false", *sets])
    record = run(str(before), str(after), out, config)
    with rasterio.open(out / "change.tif") as file:
        shape = file.shape if like is None else (like["height"], like["width"])
        place = file.transform if like is None else like["transform"]
        bounds = rasterio.transform.array_bounds(*shape, place)
        window = rasterio.windows.from_bounds(*bounds, file.transform).round_offsets().round_lengths()
        found = file.read(1, window=window, boundless=True, fill_value=255)
    print(f"  {out.name}: {(found == 1).sum() / (found != 255).sum():.2%} changed")
    for line in record.warnings:
        print("  warning:", line)
    return found


def share(title: str, found: Pixels) -> str:
    """Return a title with the share that changed."""
    return f"{title}\n{(found == 1).sum() / (found != 255).sum():.1%} changed"


def picture(image: Pixels, like: Pixels | None = None) -> Pixels:
    """Return red, green, blue for the eye, in the stretch of another image where one is given."""
    low, high = np.percentile(image if like is None else like, (1, 98.5), axis=(1, 2))
    return np.moveaxis(np.clip((image - low[:, None, None]) / (high - low)[:, None, None], 0, 1), 0, -1)


def overlay(image: Pixels, *layers: tuple[Pixels, str]) -> Pixels:
    """Return an image in grey with places in colours over it."""
    grey = np.repeat(picture(image).mean(-1, keepdims=True), 3, axis=-1) * 0.75 + 0.05
    for where, colour in layers:
        grey[where] = mpl.colors.to_rgb(colour)
    return grey


def compared(image: Pixels, found: Pixels, clean: Pixels) -> Pixels:
    """Return an image in grey with change over it, as it differs from that of the clean pair."""
    change, real, hidden = found == 1, clean == 1, found == 255
    return overlay(
        image,
        (hidden, HIDDEN),
        (change & ~real, FALSE),
        (real & ~change & ~hidden, MISSED),
        (change & real, SHARED),
    )


def draw(panels: dict[str, Pixels], legend: dict[str, str], target: Path) -> None:
    """Draw panels side by side, and the legend of those colours that are there."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 3.9))
    # A constrained layout takes no account of titles in two lines.
    figure.subplots_adjust(left=0.003, right=0.997, bottom=0.105, top=0.86, wspace=0.02)
    for axis, (title, image) in zip(axes, panels.items(), strict=True):
        # Single pixels stay sharp where they are enlarged.
        axis.imshow(image, interpolation="nearest" if len(image) < 200 else "antialiased")
        axis.set_title(title, fontsize=13)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    patches = [
        Patch(facecolor=colour, label=label)
        for label, colour in legend.items()
        if any(
            (np.abs(image[..., :3] - mpl.colors.to_rgb(colour)) < 1e-6).all(-1).sum()
            > 3 + 0.001 * image[..., 0].size * (len(image) > 200)
            for image in panels.values()
        )
    ]
    if patches:
        figure.legend(handles=patches, loc="lower center", ncols=4, frameon=False, fontsize=13)
    figure.savefig(target, dpi=100)
    plt.close(figure)
    few_colours(target, legend.values())
    print(f"  {target}: {target.stat().st_size / 1000:.0f} kB")


def few_colours(picture: Path, kept: Iterable[str]) -> None:
    """Write a picture with a palette, for a third of the bytes; the colours of a legend stay as they are."""
    image = Image.open(picture).convert("RGB")
    pixels = np.asarray(image).reshape(-1, 3)
    palette = np.reshape(image.quantize(128, dither=Image.Dither.NONE).getpalette(), (-1, 3))[:128]
    exact = np.array(
        [[255 * part for part in mpl.colors.to_rgb(colour)] for colour in ("white", "black", *kept)]
    )
    numbers = KDTree(palette).query(pixels)[1]
    # Roofs of like colours do not take those of the legend.
    for number, colour in enumerate(exact, len(palette)):
        numbers[np.abs(pixels - colour).max(1) < 12] = number
    few = Image.fromarray(numbers.reshape(image.size[::-1]).astype(np.uint8), "P")
    few.putpalette(np.concatenate([palette, exact.round().astype(int)]).ravel().tolist())
    few.save(picture, optimize=True)


def cloud_mask(folder: Path) -> Path:
    """Write the mask of the clouds that are pasted."""
    image, profile = read(DEMO / "beirut_after.tif")
    mask = cloud_cover(image.shape[1:], CLOUDS)[None] > 0
    return write(folder / "clouds.tif", mask, {**profile, "dtype": "uint8"}, ("clouds",))


def later_date(case: Case, infrared: Path | None) -> tuple[Pixels, dict]:
    """Return the later date of the demo, with its near infrared where the case needs that."""
    image, profile = read(DEMO / "beirut_after.tif")
    if case.infrared:
        assert infrared is not None
        with rasterio.open(infrared) as file:
            bounds = rasterio.transform.array_bounds(*image.shape[1:], profile["transform"])
            window = rasterio.windows.from_bounds(*bounds, file.transform).round_offsets().round_lengths()
            image = file.read(window=window).astype(np.float32)
    profile["transform"] *= Affine.translation(case.moved_px, 0)
    return case.change(image), profile


def draw_case(case: Case, clean: Pixels, folder: Path, target: Path, infrared: Path | None) -> None:
    """Make a pair of the demo, run it as it is and with the remedy, and draw both."""
    before = DEMO / "beirut_before.tif"
    earlier, grid = read(before)
    changed, profile = later_date(case, infrared)
    after = write(folder / "after.tif", changed, profile, case.names)
    wrong = classes(before, after, folder / f"{target.stem}-wrong", *case.wrong, like=grid)
    write(after, changed, profile | case.declared, case.better_names or case.names)
    sets = [text.format(mask=cloud_mask(folder)) for text in case.mended]
    mended = classes(before, after, folder / f"{target.stem}-mended", *sets, like=grid)
    shown = np.roll(changed, round(case.moved_px), axis=2)[:, *VIEW]
    earlier = earlier[:, *VIEW]
    stretch = shown[:3] if case.infrared else earlier
    panels = {"before": picture(earlier), f"after: {case.title}": picture(shown[:3], stretch)}
    for title, found in ((case.wrong_title, wrong), (case.mended_title, mended)):
        panels[share(title, found)] = compared(earlier, found[VIEW], clean[VIEW])
    draw(panels, LEGEND, target)


def draw_speckle(clean: Pixels, folder: Path, target: Path) -> None:
    """Draw the pieces of the demo's change that are smaller than 500 m2, without and with the median of the default."""
    view = slice(182, 302), slice(141, 261)
    dates = [DEMO / f"beirut_{date}.tif" for date in ("before", "after")]
    before, after = (read(path)[0][:, *view] for path in dates)
    place = read(dates[0])[1]["transform"]
    pixel_m2 = 111_320 * np.cos(np.radians(place.f)) * place.a * 110_900 * -place.e
    panels = {"before": picture(before), "after": picture(after, before)}
    rough = classes(*dates, folder / "rough", "output.smoothing=none")
    for title, found in (("smoothing=none", rough), ("default", clean)):
        numbers, pieces = ndimage.label(found == 1)
        areas = np.bincount(numbers.ravel()) * pixel_m2
        small = ((areas < 500)[numbers] & (found == 1))[view]
        print(f"  {title}: {pieces} pieces, {(areas[1:] < 500).sum()} under 500 m2")
        large = (found[view] == 1) & ~small
        panels[f"{title}\n{pieces} polygons"] = overlay(before, (small, FALSE), (large, SHARED))
    draw(panels, {"pieces of 500 m2 and more": SHARED, "smaller pieces": FALSE}, target)


def draw_pixels(clean: Pixels, folder: Path, target: Path) -> None:
    """Draw a part of the demo in pixels of a third of the size."""
    dates = []
    part = (slice(10, 330), slice(440, 760))
    for date in ("before", "after"):
        image, profile = read(DEMO / f"beirut_{date}.tif")
        fine = ndimage.zoom(image[:, *part], (1, 3, 3), order=3, grid_mode=True, mode="nearest")
        place = profile["transform"] * Affine.translation(part[1].start, part[0].start) * Affine.scale(1 / 3)
        profile |= {"height": fine.shape[1], "width": fine.shape[2], "transform": place}
        dates.append(write(folder / f"{date}.tif", fine, profile, ("B04", "B03", "B02")))
    pixels, later = (read(path)[0] for path in dates)
    panels = {"before, pixels of 3 m": picture(pixels), "after": picture(later, pixels)}
    for title, sets in (("default", ()), ("--resample-to-model", ("grid.resample_to_model=true",))):
        found = classes(*dates, folder / f"pixels {title}", *sets)
        factors = [side / own for side, own in zip(pixels.shape[1:], found.shape, strict=True)]
        shown = ndimage.zoom(found, factors, order=0, grid_mode=True, mode="nearest")
        panels[share(title, found)] = compared(pixels, shown, np.kron(clean[part], np.ones((3, 3))))
    draw(panels, {name: colour for name, colour in LEGEND.items() if colour != HIDDEN}, target)


def draw_fields(dates: list[Path], folder: Path, target: Path) -> None:
    """Draw a pair with fields, whose change is mostly harvest."""
    before, after = (read(path)[0][:3] for path in dates)
    maps = {
        "default": classes(*dates, folder / "fields"),
        "--threshold 0.5": classes(*dates, folder / "fields-strict", "threshold=0.5"),
    }
    view = slice(330, 630), slice(0, 300)
    panels = {"before": picture(before[:, *view]), "after": picture(after[:, *view])}
    for title, found in maps.items():
        panels[share(title, found)] = overlay(before[:, *view], (found[view] == 1, FALSE))
    draw(panels, {"change": FALSE}, target)


def draw_roofs(image: Path, mask: Path, folder: Path, target: Path) -> None:
    """Draw one image with its roofs aside, as another camera would see them."""
    pixels = np.asarray(Image.open(image).convert("RGB"), np.float32) / 255
    stands = np.asarray(Image.open(mask).convert("L")) > 0
    aside = np.array([6, 7])
    leaning = blend(pixels, move(pixels, aside), soften(move(stands, aside), 0.6))
    profile = {"driver": "GTiff", "width": pixels.shape[1], "height": pixels.shape[0], "dtype": "uint8"}
    profile |= {"crs": "EPSG:32636", "transform": Affine(0.15, 0, 4e5, 0, -0.15, 4e4)}
    paths = [
        write(folder / f"{name}.tif", 255 * np.moveaxis(date, -1, 0), profile, ("red", "green", "blue"))
        for name, date in (("one", pixels), ("other", leaning))
    ]
    record = register_scenes(*map(str, paths), load_config()).record
    print(" ", record.state, record.typical_px, record.agreeing, record.windows)
    difference = np.abs(leaning - pixels).max(-1)
    panels = {
        "one camera": pixels,
        "roofs 1.4 m aside": leaning,
        "difference": plt.get_cmap("magma")(np.clip(difference / 0.5, 0, 1)),
    }
    draw(panels, {}, target)


def main() -> None:
    """Draw the cases that are named, or all that can be drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--infrared", type=Path, metavar="AFTER")
    parser.add_argument("--fields", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--roofs", nargs=2, type=Path, metavar=("IMAGE", "MASK"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        others = {
            "pixels": lambda target: draw_pixels(clean, folder, target),
            "speckle": lambda target: draw_speckle(clean, folder, target),
        }
        if given.fields:
            others["fields"] = lambda target: draw_fields(given.fields, folder, target)
        if given.roofs:
            others["roofs"] = lambda target: draw_roofs(*given.roofs, folder, target)
        drawn = [case for case in CASES if given.infrared or not CASES[case].infrared]
        print("the demo as it is")
        clean = classes(DEMO / "beirut_before.tif", DEMO / "beirut_after.tif", folder / "clean")
        for case in given.cases or [*drawn, *others]:
            print(case)
            target = given.out / f"gallery_{case}.png"
            if case in others:
                others[case](target)
            else:
                draw_case(CASES[case], clean, folder, target, given.infrared)


if __name__ == "__main__":
    main()
