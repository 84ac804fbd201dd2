"""Export of a model's network as a program that other software runs: ONNX, or an exported program of PyTorch.

Both take patches of two images, ``before`` and ``after``, ``(N, bands, patch, patch)`` float32 in [0, 1], and return
``probability``, ``(N, 1, patch, patch)`` in [0, 1]. N is free; the side of a patch is not, since SSFC looks at the
whole of it, which makes it a part of the weights.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ussfc.addresses import shown_address
from ussfc.errors import ModelError
from ussfc.folded import FoldedUSSFCNet
from ussfc.local_files import replace_file
from ussfc.preprocessing import to_network_range
from ussfc.spec import ModelSpec
from ussfc.weights import load_weights

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""Formats, and the suffixes of their files."""

FACTS = "ussfc"
"""Name under which a file has the facts of the model, as JSON."""

_NEEDED = {"onnx": ("onnx", "onnxscript"), "torch": ()}


class _Program(nn.Module):
    """The network behind the mapping of [0, 1] to its own range."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        probability: Tensor = self.network(to_network_range(before), to_network_range(after))
        return probability


def export_model(spec: ModelSpec, target: Path, kind: str) -> None:
    """Write a model's network as a program; ``target`` appears only when complete.

    The means of SSFC are taken as the card recommends.

    Args:
        spec: the model.
        target: a local file; its folder must exist.
        kind: key of :data:`SUFFIXES`.

    Raises:
        ModelError: the weights cannot be used, or the packages that the format needs are not installed.
        OSError: the folder cannot be written.
    """
    missing = [name for name in _NEEDED[kind] if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"format {kind}: {' and '.join(missing)} not installed here; pip install 'ussfc[onnx]'"
        )
    with _silence():
        data = _WRITERS[kind](exported_program(spec), facts(spec))
    replace_file(target, data)


def patch_size(spec: ModelSpec) -> int:
    """Return the side of the patches that a model's program takes, pixels: what its card recommends."""
    return spec.tiling.patch_size or spec.patch_size


def facts(spec: ModelSpec) -> dict[str, object]:
    """Return what a user of the program must know of the model: bands, numbers, threshold, licence."""
    card = spec.model_dump(mode="json", exclude_none=True)
    kept: dict[str, object] = {
        name: card[name]
        for name in ("name", "title", "bands", "resolution_m", "finest_m", "patch_size", "tiling", "radiometry",
                     "threshold", "smoothing", "alteration", "licence")
        if name in card
    }  # fmt: skip
    return {**kept, "weights_sha256": spec.weights.sha256, "ussfc_version": version("ussfc")}


def exported_program(spec: ModelSpec) -> ExportedProgram:
    """Return a model's network for any number of patches, see :func:`export_model`."""
    network = load_weights(spec.weights_path(), sha256=spec.weights.sha256)
    if network.bands != len(spec.bands):
        raise ModelError(
            f"weights {shown_address(spec.weights_path())}: for {network.bands} bands, the model card lists "
            f"{len(spec.bands)}; correct it"
        )
    if spec.tiling.ssfc == "local":
        network.use_local_statistics(spec.patch_size)
    side = patch_size(spec)
    # Two patches: a batch of one would be taken for the only size.
    examples = tuple(torch.rand(2, network.bands, side, side) for _ in range(2))
    sizes = {0: Dim("patches")}
    return torch.export.export(
        _Program(FoldedUSSFCNet(network)).eval(), examples, dynamic_shapes=(sizes, sizes)
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporters say of themselves from the terminal."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _as_onnx(program: ExportedProgram, known: Mapping[str, object]) -> bytes:
    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["before", "after"],
        output_names=["probability"],
        verbose=False,
    )
    assert written is not None
    proto = written.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = FACTS, json.dumps(known)
    return bytes(proto.SerializeToString())


def _as_program(program: ExportedProgram, known: Mapping[str, object]) -> bytes:
    target = BytesIO()
    torch.export.save(program, target, extra_files={f"{FACTS}.json": json.dumps(known)})
    return target.getvalue()


_WRITERS: Mapping[str, Callable[[ExportedProgram, Mapping[str, object]], bytes]] = {
    "onnx": _as_onnx,
    "torch": _as_program,
}
