"""Words that a shell offers for options and arguments; see `docs/machine.md`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import resources

import click
from click.shell_completion import CompletionItem

from ussfc.pipeline.choices import ENGINES, PRECISIONS

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""Returns what may stand in the place of a word that was begun."""


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the names of files and folders."""
    return [CompletionItem(incomplete, type="file")]


def words(*known: str) -> Completion:
    """Return a completion of a fixed set of words."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _beginning(known, incomplete)

    return complete


def models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of packaged models, or those of files where no model begins so."""
    import ussfc

    return _beginning(ussfc.list_models(), incomplete) or files(context, parameter, incomplete)


def clusters(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of packaged clusters, or those of files where no cluster begins so."""
    folder = resources.files("ussfc.configs").joinpath("clusters")
    names = (entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return _beginning(sorted(names), incomplete) or files(context, parameter, incomplete)


engines = words(*ENGINES)
precisions = words(*PRECISIONS)
qualities = words("fast", "best")
devices = words("auto", "cpu", "cuda")
formats = words("geoparquet", "gpkg", "flatgeobuf", "geojson")
recipes = words("paper", "strong")
radiometries = words("auto", "model", "match")
registrations = words("off", "check", "correct")
cloud_modes = words("auto", "off")
data_kinds = words("levir-cd", "cdd", "dsifn-cd", "geotiff", "masks")


def _beginning(known: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]
