"""The command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.paths import ROOT
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

DOCUMENTED = frozenset(ExitStatus) - {ExitStatus.DEFECT}
"""Exit statuses that a user may meet; a defect is none of them."""

SECONDS = 120
"""Time after which a command hangs, seconds."""


def ussfc(
    *arguments: object,
    cwd: Path,
    redirection: str = "",
    limits: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end.

    Args:
        arguments: of ``ussfc``; bytes are passed as they are.
        cwd: working directory.
        redirection: of the standard streams, as bash writes it.
        limits: commands of bash before it, such as ``ulimit -v 1000000``.
        environment: more variables.
        seconds: time after which it is killed, and the test fails.
    """
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # Bytecode that a limit of file sizes cuts short would be read by every later process.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "1"} if limits else {}
    words = [argument if isinstance(argument, bytes) else str(argument) for argument in arguments]
    return subprocess.run(
        ["bash", "-c", f'{limits}\nexec "$0" -m ussfc.cli "$@" {redirection}', sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, **bytecode, **(environment or {})},
        capture_output=True,
        timeout=seconds,
        check=False,
    )
