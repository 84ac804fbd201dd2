"""The command that looks at this machine: ``ussfc doctor``."""

# Imports of what computes stay inside the commands: `ussfc --help` must not wait for GDAL.
from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from ussfc.pipeline.terminal import options
from ussfc.pipeline.terminal.exit_statuses import ExitStatus
from ussfc.pipeline.terminal.output import Output

WIDTH = 12
"""Width of the names before the lines, characters."""


@click.command()
@options.json_option("Print the inventory as JSON.")
def doctor(output: Output) -> None:
    """Print what this machine offers: versions, engines, cores, memory, GPUs, disk, extras, credentials by kind.

    Nothing is computed, no network is asked, and no credential is read or shown. Exit status 1 if something here
    prevents runs, with a line for each problem.
    """
    from ussfc.pipeline.benchmark.inventory import take_inventory

    found = take_inventory()
    output.result(found, inventory_lines(found))
    for problem in found["problems"]:
        output.notice(f"problem: {problem}")
    if found["problems"]:
        sys.exit(ExitStatus.DEFECT)


def inventory_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Return an inventory as lines for people: what it is about, aligned, and what there is."""
    for name, text in _rows(found):
        yield f"{name:<{WIDTH}} {text}".rstrip()


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    versions = found["versions"]
    yield from _named("versions", (f"{name} {version or 'missing'}" for name, version in versions.items()), 4)
    for engine in found["engines"]:
        where = f"{engine['engine']} on {engine['device']}"
        absent = "not installed" if engine["version"] is None else "no such device here"
        yield "engine", f"{where}: {', '.join(engine['precisions']) or absent}"
    chosen = found["chosen"]
    yield (
        "chosen",
        "{engine} in {precision} on {device}".format(**chosen)
        if chosen
        else "not measured yet; the first run compares them",
    )
    yield "cores", _cores(found["cores"])
    yield "memory", _memory(found["memory"])
    yield "GPUs", ", ".join(found["gpus"]) or "none"
    for disk in found["disk"]:
        free = "unknown" if disk["free"] is None else _gb(disk["free"])
        yield "disk", f"{free} free in the {disk['use']} ({disk['folder']})"
    for name, extra in found["extras"].items():
        packages = ", ".join(
            package if version is None else f"{package} {version}"
            for package, version in extra["packages"].items()
        )
        yield "extra", f"{name}: {packages}" + ("" if extra["installed"] else f" missing; {extra['install']}")
    for store, kinds in found["credentials"].items():
        yield "credentials", f"{store}: {', '.join(kinds) or 'none found'}"


def _named(name: str, parts: Iterator[str], at_once: int) -> Iterator[tuple[str, str]]:
    """Return parts in rows of so many, the first with the name."""
    listed = list(parts)
    for start in range(0, len(listed), at_once):
        yield name if start == 0 else "", ", ".join(listed[start : start + at_once])


def _cores(cores: Mapping[str, Any]) -> str:
    usable, machine, limit = cores["usable"], cores["machine"], cores["group_limit"]
    text = f"{usable} of {machine} (affinity)"
    if limit is None:
        return f"{text}, no limit of time by a cgroup"
    slower = "; threads beyond it wait: choose fewer cores by `taskset`" if limit < usable else ""
    return f"{text}, the time of {limit:.3g} (cgroup){slower}"


def _memory(memory: Mapping[str, Any]) -> str:
    parts = [f"{_gb(memory['available'])} free of {_gb(memory['total'])}"]
    if memory["group_limit"] is not None:
        parts.append(f"limit {_gb(memory['group_limit'])} (cgroup v{memory['group_version']})")
    if memory["address_limit"] is not None:
        parts.append(f"addresses of a process {_gb(memory['address_limit'])} (ulimit -v)")
    return ", ".join(parts)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
