"""Folders that tests read."""

from __future__ import annotations

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
