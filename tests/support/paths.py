"""Folders that tests read, and those of programs."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden"
CONFIGS = ROOT / "configs"
DEMO = CONFIGS / "demo"
MODELS = CONFIGS / "models"
SHARED = ROOT.parent / "shared"
"""Large test data beside the checkout; tests that need it skip where it is missing."""


def system_path() -> str:
    """Return PATH with the folders of daemons."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
