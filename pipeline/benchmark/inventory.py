"""An inventory of this machine: what ussfc finds here, without a computation and without the network."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ussfc.cores import cores
from ussfc.errors import ModelError
from ussfc.pipeline.benchmark.credentials import credential_problems, find_credentials
from ussfc.pipeline.errors import ConfigError, InsufficientMemoryError
from ussfc.pipeline.parallel.control_groups import cpu_quota
from ussfc.pipeline.parallel.memory_limit import (
    LEAST_RESIDENT,
    address_limit,
    available_memory,
    check_address_space,
    group_limit,
)
from ussfc.pipeline.runs.model_choice import named_model

if TYPE_CHECKING:
    from ussfc.detector import DetectorSpec

PACKAGES = ("ussfc", "torch", "openvino", "rasterio", "dask", "distributed", "numpy", "zarr")
"""Packages whose versions are listed."""

NVIDIA = Path("/proc/driver/nvidia/gpus")
"""Folder with an entry for each GPU that NVIDIA's driver knows."""

LEAST_DISK = 1_000_000_000
"""Free bytes below which a run has hardly room for its files."""

DEVELOPMENT = ("test", "dev", "docs")
"""Extras that nothing at run time needs."""


def take_inventory() -> dict[str, Any]:
    """Return what this machine offers, as JSON values.

    Returns:
        ``versions``, ``engines``, ``chosen`` engine and precision of the default model on this machine if they were
        measured, ``cores``, ``memory``, ``gpus``, ``disk``, ``extras``, ``credentials``, and ``problems``: lines, each
        of which prevents something.
    """
    problems: list[str] = []
    scratch, model = _configured(problems)
    gpus = _gpus(problems)
    engines = _engines(bool(gpus))
    if not any(engine["precisions"] for engine in engines):
        problems.append("no engine for the network is installed; pip install torch openvino")
    found = {
        "versions": _versions(problems),
        "engines": engines,
        "chosen": _chosen(model, bool(gpus)),
        "cores": {"usable": cores(), "machine": os.cpu_count() or 1, "group_limit": cpu_quota()},
        "memory": _memory(problems),
        "gpus": gpus,
        "disk": [_disk("working directory", Path(), problems), _disk("scratch", scratch, problems)],
        "extras": extras(metadata.requires("ussfc") or []),
        "credentials": find_credentials(),
    }
    return found | {"problems": problems + credential_problems()}


def extras(requirements: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the extras that are of use at run time: the version of each package, and the command that installs them.

    Args:
        requirements: of the package, as its metadata list them.
    """
    found: dict[str, dict[str, Any]] = {}
    for requirement in requirements:
        named = re.match(r"\s*([\w.-]+).*;.*extra\s*==\s*[\"']([\w-]+)[\"']", requirement)
        if named is None or named[2] in DEVELOPMENT:
            continue
        extra = found.setdefault(
            named[2], {"packages": {}, "installed": True, "install": f"pip install 'ussfc[{named[2]}]'"}
        )
        version = _version(named[1])
        extra["packages"][named[1]] = version
        extra["installed"] = extra["installed"] and version is not None
    return found


def _configured(problems: list[str]) -> tuple[Path, str]:
    """Return scratch folder and model of the configuration; the usual ones where it cannot be used."""
    from ussfc.pipeline.config.load import load_config

    try:
        config = load_config(environment=os.environ)
    except ConfigError as error:
        problems.append(f"configuration of the environment: {error}")
        config = load_config(environment={})
    return Path(config.output.scratch or tempfile.gettempdir()), config.model


def _versions(problems: list[str]) -> dict[str, str | None]:
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    try:
        import rasterio
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
    except ImportError as error:
        problems.append(f"rasterio cannot be imported ({error}); install it again: pip install rasterio")
        return versions
    try:
        CRS.from_epsg(32631)
    except CRSError:
        problems.append(
            "PROJ finds no database of its version, so no CRS can be read; unset PROJ_DATA, PROJ_LIB and GDAL_DATA"
        )
    return versions | {"gdal": rasterio.__gdal_version__, "proj": rasterio.__proj_version__}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _engines(on_gpu: bool) -> list[dict[str, Any]]:
    from ussfc.detector import engine_version
    from ussfc.engines import DEVICES, PRECISIONS

    found = []
    for engine, precisions in PRECISIONS.items():
        try:
            version: str | None = engine_version(engine)
        except ModelError:
            version = None
        for device in ("cpu", "cuda"):
            made = [precision for precision in precisions if device in DEVICES[engine, precision]]
            if made:
                is_there = version is not None and (device == "cpu" or on_gpu)
                found.append({
                    "engine": engine, "device": device, "version": version, "precisions": made if is_there else [],
                })  # fmt: skip
    return found


def _chosen(model: str, on_gpu: bool) -> dict[str, str] | None:
    """Return engine, precision and device that this machine computes a model fastest with; None: not measured yet."""
    import ussfc

    if not ussfc.engine_was_chosen():
        return None
    from ussfc.engine_selection import EngineCache, cpu_facts

    asked: list[DetectorSpec] = []

    def keep(specs: Sequence[DetectorSpec]) -> DetectorSpec:
        asked.extend(specs)
        return specs[0]

    try:
        options = ussfc.DetectorOptions(device="cuda" if on_gpu else "cpu")
        only = ussfc.detector_spec(named_model(model), options, choose=keep)
    except ModelError:
        return None
    # Without a GPU there is nothing that torch would have to be loaded for.
    choice = EngineCache(processor=None if on_gpu else cpu_facts()).get(asked or [only])
    return None if choice is None else {"engine": choice[0], "precision": choice[1], "device": only.device}


def _memory(problems: list[str]) -> dict[str, Any]:
    limit, available = group_limit(), available_memory()
    try:
        check_address_space()
    except InsufficientMemoryError as error:
        problems.append(str(error))
    if available < LEAST_RESIDENT:
        problems.append(
            f"{available / 1e9:.2f} GB of memory are free, a run takes {LEAST_RESIDENT / 1e9:.1f} GB and more; end "
            "other programs or raise the limit"
        )
    return {
        "total": int(psutil.virtual_memory().total),
        "available": available,
        "group_limit": limit and limit[0],
        "group_version": limit and limit[1],
        "address_limit": address_limit(),
    }


def _gpus(problems: list[str]) -> list[str]:
    # Without the driver there is nothing for which torch had to be imported.
    try:
        known = len(list(NVIDIA.iterdir()))
    except OSError:
        known = 0
    if not known or importlib.util.find_spec("torch") is None:
        return []
    import ussfc

    count = ussfc.gpus()
    if not count and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        problems.append(
            f"{known} GPU of NVIDIA, and torch {_version('torch')} can use none; install its build for CUDA"
        )
    if not count:
        return []
    from ussfc.bench import gpu_name

    return [gpu_name() or "GPU"] * count


def _disk(use: str, folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        # A working directory that was removed has no name any more.
        folder = folder.absolute()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        problems.append(f"{use} {folder}: cannot be looked at ({error.strerror}); choose another one")
        return {"use": use, "folder": str(folder), "free": None}
    if not os.access(folder, os.W_OK | os.X_OK):
        problems.append(f"{use} {folder}: cannot be written; choose another one")
    elif free < LEAST_DISK:
        problems.append(f"{use} {folder}: {free / 1e9:.2f} GB are free; make room")
    return {"use": use, "folder": str(folder), "free": free}
