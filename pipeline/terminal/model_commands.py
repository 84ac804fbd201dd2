"""Commands about the packaged models: ``ussfc models``."""

# Imports of what computes stay inside the commands: `ussfc --help` must not wait for torch.
from __future__ import annotations

import dataclasses

import click

from ussfc.addresses import shown_address
from ussfc.pipeline.parallel.memory_limit import check_address_space
from ussfc.pipeline.terminal import completion, options, tables
from ussfc.pipeline.terminal.output import Output


@click.group()
def models() -> None:
    """Models that come with the package."""


@models.command("list")
def list_models() -> None:
    """List the packaged models."""
    import ussfc

    for name in ussfc.list_models():
        spec = ussfc.find_model(name)
        licence = spec.licence.weights if spec.licence else "no licence stated"
        click.echo(f"{name}  {spec.title} [{licence}]")


@models.command("show")
@click.argument("name", default="ussfc-s2-rgb", shell_complete=completion.models)
@options.json_option("Print card and costs as JSON.")
def show_model(name: str, output: Output) -> None:
    """Print the card of a model, and what its network costs: parameters, multiply-accumulates, time here."""
    import yaml

    import ussfc
    from ussfc.efficiency import efficiency, latency

    check_address_space()
    spec = ussfc.find_model(name)
    card = spec.model_dump(mode="json", exclude_none=True)
    card["weights"]["uri"] = shown_address(spec.weights.uri)
    if not output.as_json:
        click.echo(yaml.safe_dump(card, sort_keys=False, width=110).rstrip())
    network = ussfc.load_weights(spec.weights_path(), sha256=spec.weights.sha256)
    counts = efficiency(network)
    seconds = latency(network, counts.patch_size)
    costs = {**dataclasses.asdict(counts), "latency_s": round(seconds, 4)}
    output.result({**card, "efficiency": costs}, tables.cost_lines(counts, seconds))


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
            "reason": fit.obstacle or None,
        }
        for fit in ranked
    ]
    lines = [
        f"{fit.model.name}  F1 {fit.model.overall_f1:.3f}  "
        + (f"does not fit: {fit.obstacle}" if fit.obstacle else "fits")
        for fit in ranked
    ]
    output.result(listed, lines)
