"""The name of a run, under which its tiles are recorded, and the key of one that is only being created."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

STARTING = {"starting": True}
"""Key of a store that is being created."""


def run_name(key: Mapping[str, Any]) -> str:
    """Return the name of a run: 16 hexadecimal digits of the SHA-256 of its key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
