"""Checks of a batch, printed pair by pair."""

from __future__ import annotations

import sys
from typing import Any

from ussfc.pipeline.terminal import tables
from ussfc.pipeline.terminal.exit_statuses import ExitStatus
from ussfc.pipeline.terminal.output import Output


def validate_pairs(out: str, output: Output) -> None:
    """Check each pair of a batch, print what is found as it is found, and end with the status of the worst."""
    from ussfc.pipeline.batches.folder_checks import validate_batch

    listed: list[dict[str, Any]] = []
    for name, found in validate_batch(out):
        checks = [] if isinstance(found, str) else found
        listed.append({
            "name": name,
            "ok": bool(checks) and all(check.ok for check in checks),
            "checks": [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
            "error": found if isinstance(found, str) else None,
        })  # fmt: skip
        if not output.as_json:
            output.lines(tables.pair_check_lines(name, found))
    if output.as_json:
        output.json(listed)
    if any(pair["checks"] and not pair["ok"] for pair in listed):
        sys.exit(ExitStatus.INVALID)
    if not all(pair["ok"] for pair in listed):
        sys.exit(ExitStatus.INCOMPLETE)
