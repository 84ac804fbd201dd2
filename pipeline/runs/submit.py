"""A whole run as one SLURM job: for sites where long programs on login nodes are forbidden."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ussfc.addresses import shown_address
from ussfc.pipeline.clusters import slurm_commands as slurm
from ussfc.pipeline.clusters.slurm import LOG_FOLDER, check_shell_word, is_shell_word, make_log_folder
from ussfc.pipeline.config.load import ENV_PREFIX, documented_keys
from ussfc.pipeline.config.schema import RunConfig, SlurmCluster, size_in_bytes
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.reading.sources.resolve import absolute_source
from ussfc.pipeline.runs.plan import check_memory, plan
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.remote import is_remote
from ussfc.pipeline.tiling.memory import BASE_DASK, BASE_RASTERS, FINISHING

CLIENT = BASE_RASTERS + BASE_DASK + FINISHING
"""Bytes of the scheduler and of the writing of products, which share a node with workers. Requested with every job's
memory, since that may be any node of the allocation."""

FILES = ("grid.aoi", "masks.before", "masks.after")
"""Settings that are names of files."""

SHEBANG_LENGTH = 127
"""Characters of a script's first line that every kernel reads."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch script and its job."""

    script: str
    """Its text."""
    file: Path | None
    """Path of the script; None: it was not submitted."""
    job: str | None
    """Id of the job; None: it was not submitted."""
    log: Path
    """Log of the job; ``%j`` stands for its id."""
    notes: tuple[str, ...] = ()
    """Notices for the user."""


def submit(
    before: str,
    after: str,
    out: str,
    config: RunConfig,
    flags: tuple[str, ...] = (),
    dry_run: bool = False,
) -> Submission:
    """Write a batch script that runs ``ussfc run`` inside an allocation, and submit it.

    The allocation has ``cluster.jobs`` (or ``maximum_jobs``) times ``cluster.workers`` tasks, of ``cluster.threads``
    cores each.
    Inputs, model and output are checked first, so that a mistake is reported before the job waits in the queue.

    Args:
        before: earlier image, path or URI.
        after: later image, path or URI.
        out: folder of the products, path or URI; it must be the same on the nodes.
        config: with ``cluster.kind`` slurm.
        flags: more arguments of ``ussfc run``.
        dry_run: write and submit nothing.

    Raises:
        ConfigError: the configuration is for another kind of cluster, or holds what cannot stand in a script, as
            secrets in addresses.
        ClusterError: sbatch is missing, or the queue rejects the job.
        ReadError, GridError, StoreError, InsufficientMemoryError, ussfc.ModelError: as a run would raise them.
    """
    cluster = config.cluster
    if not isinstance(cluster, SlurmCluster):
        raise ConfigError(
            f"cluster.kind {cluster.kind}: `ussfc submit` is for SLURM; choose the cluster slurm, or a file of that "
            "kind"
        )
    _refuse_secrets({"BEFORE": before, "AFTER": after, "OUT": out}, config)
    before, after = absolute_source(before), absolute_source(after)
    out = out if is_remote(out) else str(Path(out).absolute())
    check_memory(plan(before, after, config))
    arguments = ["run", before, after, "--out", out, *flags, *_settings(config, cluster)]
    logs = _log_folder(out, cluster)
    log = logs / "ussfc-%j.out"
    script = _script(arguments, cluster, log)
    notes: tuple[str, ...] = ()
    if cluster.options.get("job_script_prologue"):
        notes = (
            "cluster.options.job_script_prologue is for jobs of workers alone and is left out of this script; sbatch "
            "hands on the environment of this shell, so run these lines here before",
        )
    if dry_run:
        return Submission(script, None, None, log, notes)
    # Before sbatch is looked for: an output that cannot be written fails the same way on every machine.
    Folder.of(out).prepare()
    slurm.require_command("sbatch")
    make_log_folder(logs)
    file = logs / f"ussfc-{secrets.token_hex(4)}.py"
    # Names of places are the owner's matter.
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(script, "utf-8")
    return Submission(script, file, slurm.submit_script(file), log, notes)


def _refuse_secrets(arguments: Mapping[str, str], config: RunConfig) -> None:
    """Refuse addresses that hold what may be a secret: a script stays on disk, and SLURM may keep a copy.

    Raises:
        ConfigError: names the argument or setting, and the way out.
    """
    settings = {key: str(attrgetter(key)(config) or "") for key in ("model", *FILES)}
    for name, address in {**arguments, **settings}.items():
        shown = shown_address(address)
        # A scheme in capitals is shown in small letters.
        if shown.lower() != address.lower():
            raise ConfigError(
                f"{name} {shown}: is given with a user, a password or a query (a signature), which would stand in the "
                "script; give it without and let the environment or a profile hold the credentials (AWS_PROFILE, "
                "AZURE_STORAGE_SAS_TOKEN, ~/.netrc), or use a copy on disk (`ussfc prepare`)"
            )


def _log_folder(out: str, cluster: SlurmCluster) -> Path:
    """Return the folder of log and script: in an OUT on disk, else in the home.

    Raises:
        ConfigError: a link stands in its place in OUT.
    """
    given = cluster.options.get("log_directory")
    inside = Path(out) / layout.SLURM
    # sbatch takes % for a pattern; other letters would end its directive.
    usual = is_remote(out) or "%" in out or not is_shell_word(str(inside))
    if given is not None or usual:
        return Path(str(given or LOG_FOLDER)).expanduser()
    if inside.is_symlink():
        raise ConfigError(
            f"{inside}: is a link, and the job's log and script go into a folder of this name; remove it, or set "
            "cluster.options.log_directory"
        )
    return inside


def _script(arguments: list[str], cluster: SlurmCluster, log: Path) -> str:
    """Return the batch script, in Python, so that no name goes through a shell."""
    workers, threads = cluster.workers_per_job, cluster.threads or 1
    python = f"{sys.executable} -P"  # without the folder that SLURM copies the script to
    for what, text in (("sys.executable", sys.executable), ("log_directory", str(log.parent))):
        check_shell_word(what, text)
    if len(python) + 2 > SHEBANG_LENGTH:
        raise ConfigError(
            f"{sys.executable}: too long a path for the first line of a script; use a shorter one"
        )
    extra = cluster.options.get("job_extra_directives", [])
    directives = [
        "--job-name=ussfc",
        f"--ntasks={cluster.most_jobs * workers}",
        f"--cpus-per-task={threads}",
        f"--mem-per-cpu={math.ceil((size_in_bytes(cluster.memory) + CLIENT) / (workers * threads) / 2**20)}M",
        f"--time={cluster.walltime}",
        f"--output={log}",
        # A job that lost its node goes on where it stopped; --overwrite would start over.
        "--no-requeue" if "--overwrite" in arguments else "--requeue",
        "--open-mode=append",
        *((f"--partition={cluster.queue}",) if cluster.queue else ()),
        *((f"--account={cluster.account}",) if cluster.account else ()),
        *(("--gpus-per-task=1",) if cluster.gpu else ()),
        *(str(line) for line in extra),
    ]
    broken = [line for line in directives if not line.isprintable()]
    if broken:
        raise ConfigError(
            f"cluster.options.job_extra_directives {broken[0]!r}: expected one printable line each"
        )
    lines = "\n".join(f"#SBATCH {directive}" for directive in directives)
    # Literals of ASCII: any name is a word of Python, and neither ends a line nor depends on an encoding.
    called = "".join(f"    {argument!a},\n" for argument in arguments)
    return f"""#!{python}
{lines}
# Written by `ussfc submit`. Given again after any stop, it continues.
import os

# All settings stand below.
for name in [name for name in os.environ if name.startswith("{ENV_PREFIX}")]:
    del os.environ[name]

from ussfc.cli import main

main([
{called}])
"""


def _settings(config: RunConfig, cluster: SlurmCluster) -> list[str]:
    """Return the settings that differ from the defaults as arguments; of the cluster, those that an allocation uses."""
    arguments = ["--cluster", "allocation", "--set", f"cluster.threads={cluster.threads or 1}"]
    if cluster.gpu:
        arguments += ["--set", "cluster.gpu=true"]
    defaults = RunConfig()
    for key, _, _ in documented_keys():
        if key.startswith("cluster."):
            continue
        value: Any = attrgetter(key)(config)
        if value == attrgetter(key)(defaults):
            continue
        # The name of a packaged model may be that of a folder here as well.
        if value is not None and (key in FILES or (key == "model" and Path(value).suffix)):
            value = _absolute(value)
        arguments += ["--set", f"{key}={_as_yaml(value)}"]
    return arguments


def _as_yaml(value: Any) -> str:
    """Return a value as ``--set`` reads it: JSON, but without surrogate pairs, which YAML does not know."""
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", json.dumps(value, ensure_ascii=False))


def _absolute(uri: str) -> str:
    """Return a path that leads to the same place from a job's working directory."""
    return uri if is_remote(uri) or not os.path.exists(uri) else str(Path(uri).absolute())
