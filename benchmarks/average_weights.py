"""The mean of the weights of two models, one of which began with the other (WiSE-FT: Wortsman et al., CVPR 2022).

    python benchmarks/average_weights.py START TRAINED OUT.safetensors [--share 0.5]

START and TRAINED are weights of USSFC-Net, as `ussfc train --from` begins and ends with them. What is written is
(1 - share) times START plus share times TRAINED, statistics of the batch norms included, and its digest is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ussfc.files import sha256_of
from ussfc.weights import load_weights, save_weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", type=Path)
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5)
    args = parser.parse_args()
    start, network = load_weights(args.start), load_weights(args.trained)
    state = network.state_dict()
    for name, begun in start.state_dict().items():
        if begun.dtype.is_floating_point:
            state[name].lerp_(begun, 1 - args.share)
    save_weights(network, args.out, {"start": sha256_of(args.start), "share": f"{args.share:g}"})
    print(sha256_of(args.out))


if __name__ == "__main__":
    main()
