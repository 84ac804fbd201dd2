"""JSON records with a checksum of their own: a bit that changed is noticed, whatever it stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"
"""Key of a record's checksum."""

ALGORITHM = "sha256:"
"""Beginning of a checksum."""


def dumped(content: Mapping[str, Any]) -> bytes:
    """Return a mapping as the JSON that this package writes."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def sealed(content: Mapping[str, Any]) -> bytes:
    """Return a mapping as JSON with its checksum."""
    return dumped({**content, CHECKSUM: ALGORITHM + hashlib.sha256(dumped(content)).hexdigest()})


def unsealed(data: bytes, required: bool = False) -> dict[str, Any]:
    """Return the mapping in JSON without its checksum, compared with it.

    Args:
        data: the file.
        required: refuse a file without a checksum, as earlier versions wrote it.

    Raises:
        ValueError: it is no JSON, no mapping, or not what was written; the message names it.
    """
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    stated = content.pop(CHECKSUM, None)
    if stated is None and required:
        raise ValueError("it has no checksum")
    if stated is None:
        # The key itself may be what changed.
        damaged = any(isinstance(value, str) and value.startswith(ALGORITHM) for value in content.values())
    else:
        # Byte by byte: numbers may change in digits that make no difference.
        damaged = data != sealed(content)
    if damaged:
        raise ValueError("it is not what was written: its checksum differs")
    return content
