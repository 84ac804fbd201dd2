"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write aside, then rename.

    Raises:
        StoreError: the folder cannot be written.
    """
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); check space and permissions"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no mapping")
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: not found; this folder holds no run of ussfc (or its work was removed)"
        ) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); start anew with --overwrite") from error
    return content


def prepare_folder(out: Path) -> None:
    """Make the output folder and probe that it can be written, before hours are spent.

    Raises:
        StoreError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".ussfc-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def remove(path: Path) -> None:
    """Remove a file or a folder of ours; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
