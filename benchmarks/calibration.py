"""Tables of a model's page about the meaning of its probabilities, and the diagram beside them.

    python benchmarks/calibration.py MODEL DIR --scenes a,b,c --figures docs/figures

Scores as `ussfc evaluate` does. The column `others' T` divides the logits of a city by the temperature of all other
cities: what a temperature in the model's card would do to a city that did not choose it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from ussfc.metrics import Tally
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.evaluation.evaluate import Selection, evaluate

MIDDLE = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", required=True)
    parser.add_argument("--figures", type=Path, required=True)
    args = parser.parse_args()
    config, selection = load_config(flags={"model": args.model}), Selection(scenes=args.scenes.split(","))
    with tempfile.TemporaryDirectory() as out:
        found = evaluate([f"geotiff:{args.folder}"], config, selection, out=Path(out))
        shutil.copy(Path(out, "reliability.png"), args.figures / f"{found.model}_reliability.png")
    tallies = {scene.name: scene.tally for scene in found.scenes}
    print(
        f"| city | F1 | area at {found.threshold:g} | area at 0.5 | error | T | error at T | at others' T |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, tally in tallies.items():
        others = sum((each for key, each in tallies.items() if key != name), Tally.empty())
        print(row(name, tally, found.threshold), f" {error(tally, others.temperature())} |", sep="")
    print(row("**all**", found.tally, found.threshold), " |", sep="")
    points = found.tally.reliability()
    print("\n| probability |", " | ".join(f"{mean:.2f}" for mean, _, _ in points), "|")
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
