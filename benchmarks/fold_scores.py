"""Tables of a model's page: scores of scenes that a training was held out of, and what its probabilities mean there.

    python benchmarks/fold_scores.py NAME DIR --fold CARD=a,b,c --fold CARD=d,e --figures docs/figures

Each fold names the card of a network and the scenes of DIR that it was trained without; the terms of IR-MAD in its card
should come from other scenes too (benchmarks/alteration_terms.py prints them). Scored as `ussfc evaluate` does, with
IR-MAD beside the network and without. The column `others' T` divides the logits of a city by the temperature of all
other cities: what a temperature in the model's card would do to a city that did not choose it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ussfc.metrics import Tally
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.evaluation.evaluate import Selection, evaluate
from ussfc.training import pictures

MIDDLE = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fold", action="append", required=True)
    parser.add_argument("--figures", type=Path, required=True)
    args = parser.parse_args()
    folds = [(card, names.split(",")) for card, names in (fold.rsplit("=", 1) for fold in args.fold)]
    both, threshold = scored(args.folder, folds, "auto")
    alone, _ = scored(args.folder, folds, "off")
    print_scores(both, alone, threshold)
    print_card(both, threshold)
    print_calibration(both, threshold)
    for title, tallies in (("with IR-MAD", both), ("the network alone", alone)):
        print_reliability(title, total_of(tallies).reliability())
    pictures.reliability(total_of(both).reliability(), args.figures / f"{args.name}_reliability.png")


def scored(
    folder: Path, folds: list[tuple[str, list[str]]], alteration: str
) -> tuple[dict[str, Tally], float]:
    """Return the tally of each scene, and the threshold of the cards."""
    tallies: dict[str, Tally] = {}
    thresholds = set()
    for card, names in folds:
        config = load_config(flags={"model": card}, sets=[f"inference.alteration={alteration}"])
        found = evaluate([f"geotiff:{folder}"], config, Selection(scenes=names))
        tallies |= {scene.name: scene.tally for scene in found.scenes}
        thresholds.add(found.threshold)
    (threshold,) = thresholds
    return tallies, threshold


def total_of(tallies: dict[str, Tally]) -> Tally:
    """Return the sum over scenes."""
    return sum(tallies.values(), Tally.empty())


def print_scores(both: dict[str, Tally], alone: dict[str, Tally], threshold: float) -> None:
    """Print a row a city, and their sum, whose average precision is the mean over cities."""
    print("| city | precision | recall | F1 | average precision | area | the network alone: F1 | "
          "average precision | area |")  # fmt: skip
    print("|---" * 9 + "|")

    def cells(tally: Tally, precision: float, names: tuple[str, ...]) -> list[str]:
        at = tally.at(threshold)
        return [*(f"{getattr(at, name):.3f}" for name in names), f"{precision:.3f}", f"{at.area_ratio:.2f}"]

    rows = [(name, both[name], alone[name], *(each[name].average_precision() for each in (both, alone)))
            for name in both]  # fmt: skip
    means = (
        float(np.mean([each.average_precision() for each in tallies.values()])) for tallies in (both, alone)
    )
    for name, one, other, first, second in [*rows, ("**all**", total_of(both), total_of(alone), *means)]:
        row = [*cells(one, first, ("precision", "recall", "f1")), *cells(other, second, ("f1",))]
        print(f"| {name} | {' | '.join(row)} |")
    for title, tallies in (("both", both), ("the network alone", alone)):
        f1 = float(np.mean([tally.at(threshold).f1 for tally in tallies.values()]))
        print(f"{title}: F1 as the mean over cities {f1:.3f}")


def print_card(tallies: dict[str, Tally], threshold: float) -> None:
    """Print the scores as a card has them."""
    for name, tally in [*tallies.items(), ("all", total_of(tallies))]:
        found = tally.at(threshold).scores()
        print(f"  - {{scene: {name}, " + ", ".join(
            f"{key}: {found[key]:.4f}" for key in ("precision", "recall", "f1", "iou")
        ) + "}")  # fmt: skip


def print_calibration(tallies: dict[str, Tally], threshold: float) -> None:
    """Print area, calibration error and temperature of each city."""
    print(f"| city | F1 | area at {threshold:g} | area at 0.5 | error | T | error at T | at others' T |")
    print("|---" * 8 + "|")
    for name, tally in tallies.items():
        others = sum((each for key, each in tallies.items() if key != name), Tally.empty())
        print(row(name, tally, threshold), f" {error(tally, others.temperature())} |", sep="")
    print(row("**all**", total_of(tallies), threshold), " |", sep="")


def print_reliability(title: str, points: list[tuple[float, float, int]]) -> None:
    """Print the share of change by probability."""
    print(f"\n| {title}: probability |", " | ".join(f"{mean:.2f}" for mean, _, _ in points), "|")
    print("|---" * (len(points) + 1) + "|")
    print("| share of pixels with change |", " | ".join(f"{share:.3f}" for _, share, _ in points), "|")
    print("| pixels |", " | ".join(f"{pixels:,}" for _, _, pixels in points), "|")


def row(name: str, tally: Tally, threshold: float) -> str:
    """Return the cells of one city but the last."""
    chosen, temperature = tally.at(threshold), tally.temperature()
    cells = (
        name,
        f"{chosen.f1:.3f}",
        f"{chosen.area_ratio:.2f}",
        f"{tally.at(MIDDLE).area_ratio:.2f}",
        error(tally, 1.0),
        f"{temperature:.2f}",
        error(tally, temperature),
    )
    return f"| {' | '.join(cells)} |"


def error(tally: Tally, temperature: float) -> str:
    """Return the expected calibration error at a temperature."""
    return f"{tally.calibration_error(temperature=temperature):.4f}"


if __name__ == "__main__":
    main()
