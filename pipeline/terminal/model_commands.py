"""Commands about the packaged models: ``ussfc models``."""

# Imports of what computes stay inside the commands: `ussfc --help` must not wait for torch.
from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ussfc.addresses import shown_address
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.memory_limit import check_address_space
from ussfc.pipeline.terminal import completion, options, tables
from ussfc.pipeline.terminal.output import Output
from ussfc.pipeline.terminal.parameters import LocalPath


@click.group()
def models() -> None:
    """Models that come with the package."""


@models.command("list")
def list_models() -> None:
    """List the packaged models: title, last score, licence of the weights."""
    import ussfc

    for name in ussfc.list_models():
        spec = ussfc.find_model(name)
        licence = spec.licence.weights if spec.licence else "no licence stated"
        click.echo(f"{name}  {spec.title}; {spec.scored or 'not scored'} [{licence}]")


@models.command("show")
@click.argument("name", default="ussfc-s2-rgb", shell_complete=completion.models)
@options.json_option("Print card and costs as JSON.")
def show_model(name: str, output: Output) -> None:
    """Print the card of a model, and what its network costs: parameters, multiply-accumulates, time here."""
    import yaml

    import ussfc
    from ussfc.efficiency import efficiency, latency
    from ussfc.int8_ranges import has_ranges
    from ussfc.programs import is_program

    check_address_space()
    spec = ussfc.find_model(name)
    card = spec.model_dump(mode="json", exclude_none=True)
    card["weights"]["uri"] = shown_address(spec.weights.uri)
    if not output.as_json:
        click.echo(yaml.safe_dump(card, sort_keys=False, width=110).rstrip())
    if is_program(spec.weights_path()):
        # The counts know the layers of USSFC-Net alone.
        output.result(card, ())
        return
    network = ussfc.load_weights(spec.weights_path(), sha256=spec.weights.sha256)
    counts = efficiency(network)
    seconds = latency(network, counts.patch_size)
    costs = {**dataclasses.asdict(counts), "latency_s": round(seconds, 4)}
    has_int8 = has_ranges(spec)
    output.result(
        {**card, "efficiency": costs, "int8": has_int8}, tables.cost_lines(counts, seconds, has_int8)
    )


@models.command("fit")
@options.pair_arguments
@options.config_options
@options.json_option("Print the models as JSON.")
def fit_models(before: str, after: str, settings: options.Settings, output: Output) -> None:
    """Rank the packaged models for BEFORE and AFTER: those that fit by their F1, then the others with the reason."""
    from ussfc.pipeline.runs.model_choice import rank_models
    from ussfc.pipeline.runs.pair import describe_pair

    config = settings.load()
    ranked = rank_models(describe_pair(before, after, config), config)
    listed = [
        {
            "name": fit.model.name,
            "fits": not fit.obstacle,
            "f1": fit.model.overall_f1,
            "scored_on": fit.model.scores[-1].scene if fit.model.scores else None,
            "reason": fit.obstacle or None,
        }
        for fit in ranked
    ]
    lines = [
        f"{fit.model.name}  {fit.model.scored or 'not scored'}  "
        + (f"does not fit: {fit.obstacle}" if fit.obstacle else "fits")
        for fit in ranked
    ]
    output.result(listed, lines)


@models.command("export")
@click.argument("name", shell_complete=completion.models)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    help="onnx, or an exported program of PyTorch (torch.export.load).",
)
@click.option(
    "--out", type=LocalPath(dir_okay=False), metavar="FILE", help="File to write; NAME.onnx or NAME.pt2."
)
@options.json_option("Print path and facts as JSON.")
def export(name: str, kind: str, out: Path | None, output: Output) -> None:
    """Export the network of a model for other software, with bands, numbers, threshold and licence as metadata."""
    import ussfc
    from ussfc.errors import ModelError
    from ussfc.export import SUFFIXES, export_model, facts, patch_size
    from ussfc.programs import is_program

    check_address_space()
    spec = ussfc.find_model(name)
    if is_program(spec.weights_path()):
        raise ModelError(f"model {spec.name}: is an ONNX program already; copy the file")
    target = out or Path(f"{spec.name}{SUFFIXES[kind]}")
    if not target.absolute().parent.is_dir():
        raise StoreError(f"{target}: there is no folder {target.absolute().parent}; create it first")
    try:
        export_model(spec, target, kind)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror or error}); check --out") from error
    licence = spec.licence.terms if spec.licence else "no licence stated"
    side = patch_size(spec)
    output.result(
        {"path": str(target), **facts(spec)},
        [
            f"{target}: before and after, (N, {len(spec.bands)}, {side}, {side}) float32 in [0, 1], to probability; "
            f"threshold {spec.threshold:g} [{licence}]"
        ],
    )
