"""The result of ``ussfc bench`` as tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 130
"""Characters of the widest table."""

BUSY = 0.05
"""Share of the processor time taken by other programs from which a line warns of it."""

STAGES = ("read", "network", "mosaic", "vectorise")

NETWORK_HEADS = (
    "engine, precision", "patch", "batch", "calls", "Mpx/s", "reference\nMpx/s", "ratio", "largest\ndeviation",
    "of\nallowed",
)  # fmt: skip

Record = Mapping[str, Any]


def print_speeds(result: Record) -> None:
    """Print the result of ``ussfc bench``, whose layout :func:`ussfc.pipeline.benchmark.bench.bench` documents."""
    from rich.console import Console

    # A narrower terminal breaks the lines; better than to lose digits.
    console = Console(width=max(WIDTH, shutil.get_terminal_size().columns))
    _print_lines(console, _machine_lines(result))
    console.print()
    _print_roof(console, result["roof"])
    _print_network(console, result["network"])
    if result["end_to_end"] is not None:
        _print_end_to_end(console, result["end_to_end"])
    if result["stages"] is not None:
        _print_stages(console, result["stages"])
    reasons = _reasons(result)
    _print_lines(console, (f"{name}: not here: {reason}" for name, reason in reasons.items()))


def _print_lines(console: Console, lines: Iterator[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _print_table(
    console: Console, title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _spread(sampled: Record | None, unit: float = 1.0, digits: int = 2) -> str:
    """Return the median of a sampled number, least and largest in brackets."""
    if sampled is None:
        return "-"
    middle, least, largest = (f"{sampled[name] / unit:.{digits}f}" for name in ("median", "least", "largest"))
    return middle if least == largest else f"{middle} ({least}-{largest})"


def _machine_lines(result: Record) -> Iterator[str]:
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.1f} GB, "
        f"{machine['gpu'] or 'no GPU in use'}"
    )
    yield f"{machine['system']}, Python {machine['python']}, {versions}"
    yield (
        f"model {settings['model']}, device {settings['device']}; medians of {settings['rounds']} rounds of "
        f"{settings['seconds']:g} s, least and largest in brackets"
    )
    if machine["others_share"] > BUSY:
        yield (
            f"other programs took {machine['others_share']:.0%} of the processors: speeds are too low and ratios too "
            "high, for operators that are spread over all cores, as the references', wait for the slowest core"
        )


def _print_roof(console: Console, roof: Record) -> None:
    rows = [
        (
            precision,
            _spread(roof["copy_bytes_per_s"], 1e9, 1),
            _spread(rate, 1e12, 3) if rate else "in float32",
            f"{roof['bytes_per_pixel'][precision] / 1e3:.1f}",
            f"{roof['mpx_per_s'][precision]:.2f}",
        )
        for precision, rate in roof["flop_per_s"].items()
    ]
    _print_table(
        console,
        f"The machine, and what it allows at {roof['flop_per_pixel'] / 1e3:.1f} kFLOP a pixel",
        ("precision", "copy GB/s", "matrix product TFLOP/s", "kB a pixel, fused", "allowed Mpx/s"),
        rows,
    )


def _print_network(console: Console, rows: Sequence[Record]) -> None:
    _print_table(
        console,
        "Network; the reference is eager float32, a patch at a time, all cores",
        NETWORK_HEADS,
        [_network_row(row) for row in rows],
    )


def _network_row(row: Record) -> tuple[str, ...]:
    first = (f"{row['engine']} {row['precision']}", str(row["patch"]))
    if "not_here" in row:
        return (*first, "", "", "not here", "", "", "", "")
    return (
        *first,
        str(row["batch"]),
        str(row["streams"]),
        _spread(row["mpx_per_s"], digits=3),
        f"{row['reference_mpx_per_s']['median']:.3f}",
        _spread(row["ratio"]),
        f"{row['largest_deviation']:.1e}",
        "" if row["roof_share"] is None else f"{row['roof_share']:.0%}",
    )


def _sides(end_to_end: Record) -> tuple[tuple[str, str], ...]:
    """Return the title and the key of both programs."""
    chosen = " ".join(end_to_end["ussfc"].get(fact, "") for fact in ("engine", "precision")).strip()
    return (f"ussfc run {chosen}".strip(), "ussfc"), ("MONAI, scene in memory", "monai")


def _print_end_to_end(console: Console, way: Record) -> None:
    rows: list[tuple[str, ...]] = []
    for title, key in _sides(way):
        program = way[key]
        if "not_here" in program:
            rows.append((title, "not here", "", ""))
        else:
            peak = _spread(program["peak_memory_bytes"], 1e6, 0)
            rows.append((title, _spread(program["mpx_per_s"], digits=3), _spread(program["seconds"]), peak))
    rows.append(("MONAI's over ussfc's", "", _spread(way["speed_ratio"]), _spread(way["memory_ratio"])))
    _print_table(
        console,
        f"End to end: {way['pixels'] / 1e6:.1f} Mpx, patches of {way['patch']} px, overlap {way['overlap']:g}",
        ("", "Mpx/s", "seconds", "peak memory MB"),
        rows,
    )


def _print_stages(console: Console, stages: Record) -> None:
    outside = _spread(stages["share_outside_network"], 0.01, 0) + " %"
    _print_table(
        console,
        "Stages of ussfc run",
        ("", "read s", "network s", "mosaic s", "vectorise s", "of the wall time outside the network"),
        [("seconds", *(_spread(stages[name]) for name in STAGES), outside)],
    )


def _reasons(result: Record) -> dict[str, str]:
    """Return the reason of everything that is not here, by its title."""
    reasons = {
        f"{row['engine']} {row['precision']}": row["not_here"]
        for row in result["network"]
        if "not_here" in row
    }
    way = result["end_to_end"]
    if way is not None:
        reasons |= {title: way[key]["not_here"] for title, key in _sides(way) if "not_here" in way[key]}
    return reasons
