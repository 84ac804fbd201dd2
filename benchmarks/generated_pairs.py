"""Picture of generated pairs: what a training on masks of one date learns from.

    python benchmarks/generated_pairs.py DIR OUT.png [--recipe vhr] [--places kampala,golfcourse]

DIR as for `ussfc data check masks DIR`. Each of two columns shows before, after and the label; pairs are those of the
first steps of a training, of these places alone where some are named.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ussfc.training.pictures import grey, row, save, true_colour
from ussfc.training.recipe import load_recipe
from ussfc.training.synthesis.batches import MaskBatches
from ussfc.training.synthesis.tiles import open_masks

ROWS, COLUMNS = 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="vhr")
    parser.add_argument("--places", help="draw from these places alone")
    args = parser.parse_args()
    recipe, tiles = load_recipe(args.recipe), open_masks(args.dir)
    if args.places:
        tiles = tiles.without(set(tiles.places) - set(args.places.split(",")))
    batches = MaskBatches(tiles, recipe.sampling, recipe.synthesis, recipe.seed)
    rows = []
    for step in range(ROWS):
        batch = batches.batch(step)
        # Pairs with change first, so that both kinds are seen.
        chosen = np.argsort(~batch.label.any(axis=(1, 2)), kind="stable")[:COLUMNS]
        pictures = [
            picture
            for pair in chosen
            for picture in (
                true_colour(batch.before[pair]),
                true_colour(batch.after[pair]),
                grey(batch.label[pair]),
            )
        ]
        rows.append(row(pictures))
    save(np.concatenate(rows), args.out)


if __name__ == "__main__":
    main()
