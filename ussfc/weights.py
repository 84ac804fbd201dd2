"""Weights in and out of files.

Read: our safetensors files, and the ``OrderedDict`` that the authors' code writes with ``torch.save``
(old and zip format). Nothing in a file is ever executed: pickles pass ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ussfc.addresses import shown_address
from ussfc.errors import ModelError
from ussfc.files import opened, sha256_of
from ussfc.local_files import replace_file
from ussfc.network import USSFCNet

__all__ = ["load_weights", "save_weights", "sha256_of"]

_FIRST = "Conv1_1.conv.0.weight"
"""Tensor whose shape, ``(width, bands, 3, 3)``, determines the whole architecture."""

_NAMED = 3
"""Tensors that a message names before it counts the rest."""

_EXPECTED = "expected a safetensors or torch.save file of USSFC-Net weights"


def load_weights(path_or_uri: str | Path, *, sha256: str | None = None) -> USSFCNet:
    """Load a network with the weights of a file, on the CPU, in eval mode.

    The format is recognised by content, the architecture (bands, ratio) by the tensors. A ``module.`` prefix is
    dropped and a ``{"state_dict": ...}`` wrapper opened. Weights are not changed, but converted to float32 where
    stored otherwise.

    Args:
        path_or_uri: a local path or any URI that fsspec opens.
        sha256: digest that the file must have; None accepts any.

    Raises:
        ModelError: the file cannot be read, has another digest, is no checkpoint, is cut short or asks for
            code to be run; or a tensor is missing, surplus, misshapen or not finite (named).
    """
    where = f"weights {shown_address(path_or_uri)}"
    with opened(path_or_uri) as file:
        head = file.read(9)
        # Checked before the rest is read: a scene given by mistake may be tens of gigabytes.
        if not _is_safetensors(head) and not head.startswith((b"PK", b"\x80")):
            # Its first bytes are not shown: the file may be anyone's.
            raise ModelError(f"{where}: not a checkpoint; {_EXPECTED}")
        data = head + file.read()
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ModelError(
            f"{where}: sha256 is {found}, expected {sha256}; get the file again or correct the model card"
        )
    return _network_of(_tensors(data, where), where)


def save_weights(network: USSFCNet, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the weights as safetensors; ``path`` appears only when complete.

    Args:
        network: any device, any memory format; its tensors are stored contiguous.
        path: a local file; its folder must exist.
        metadata: facts for the header; ``bands`` and ``ratio`` are added.

    Raises:
        OSError: the folder cannot be written.
    """
    # Copies, since tied encoders share tensors, which the format refuses.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    facts = {**metadata, "bands": str(network.bands), "ratio": str(network.ratio)}
    data = _sorted_header(safetensors.torch.save(state, metadata=facts))
    replace_file(Path(path), data)


def _sorted_header(data: bytes) -> bytes:
    """Sort the facts in a file's header; safetensors writes them in the order of its hash map."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The tensors begin at a multiple of eight bytes; the format pads with spaces.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _is_safetensors(head: bytes) -> bool:
    """Return True for a header length of 8 bytes followed by JSON."""
    return head[8:9] == b"{"


def _tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Return the named tensors of a file's content, without prefix and wrapper."""
    content: object
    if _is_safetensors(data):
        try:
            content = safetensors.torch.load(data)
        except SafetensorError as error:
            raise ModelError(f"{where}: damaged or cut short ({error}); get the file again") from error
    else:
        content = _unpickled(data, where)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{where}: holds a {type(content).__name__}; {_EXPECTED} (a state dict, not a model)"
        )
    odd = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError(f"{where}: not tensors: {_listed(odd)}; {_EXPECTED}")
    tensors = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _unpickled(data: bytes, where: str) -> object:
    try:
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where}: not a plain checkpoint: damaged, or a pickle that would run code, which is refused; "
            "save network.state_dict() instead of the network"
        ) from error
    except (
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        # torch.load raises these on truncated and overwritten files, depending on the damaged byte.
        raise ModelError(
            f"{where}: damaged or cut short ({type(error).__name__}); get the file again"
        ) from error


def _network_of(tensors: dict[str, Tensor], where: str) -> USSFCNet:
    """Make the network that these tensors describe, after checking every one of them."""
    if _FIRST not in tensors:
        raise ModelError(f"{where}: tensor {_FIRST} is missing; {_EXPECTED}")
    shape = tuple(tensors[_FIRST].shape)
    if len(shape) != 4 or shape[2:] != (3, 3):
        raise ModelError(f"{where}: tensor {_FIRST} has shape {shape}, expected (width, bands, 3, 3)")
    try:
        # No memory and no random numbers are spent on weights that are about to be replaced.
        with torch.device("meta"):
            network = USSFCNet(bands=shape[1], ratio=shape[0] / 64)
    except ValueError as error:
        raise ModelError(f"{where}: tensor {_FIRST} has shape {shape}: {error}") from error

    expected = network.state_dict()
    if missing := [name for name in expected if name not in tensors]:
        raise ModelError(f"{where}: missing tensors: {_listed(missing)}; {_EXPECTED}")
    if surplus := [name for name in tensors if name not in expected]:
        raise ModelError(f"{where}: tensors that USSFC-Net does not have: {_listed(surplus)}")
    if odd := [
        f"{name} {_described(tensors[name])}, expected {_described(like)}"
        for name, like in expected.items()
        if not _fits(tensors[name], like)
    ]:
        raise ModelError(f"{where}: misshapen tensors: {_listed(odd)}")
    # Copies: tensors of one file may share storage.
    state = {name: tensors[name].to(like.dtype, copy=True).contiguous() for name, like in expected.items()}
    if not_finite := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise ModelError(
            f"{where}: tensors with NaN or infinity: {_listed(not_finite)}; take an earlier checkpoint"
        )
    network.load_state_dict(state, assign=True)
    return network.eval()


def _fits(tensor: Tensor, like: Tensor) -> bool:
    return (
        tensor.shape == like.shape
        and tensor.is_floating_point() == like.is_floating_point()
        and not tensor.is_complex()
        and tensor.layout == torch.strided
    )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
