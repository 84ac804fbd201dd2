"""Zarr stores on a network whose chunks are too many to be listed."""

from __future__ import annotations

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ussfc.pipeline.reading import identity
from ussfc.pipeline.reading.identity import UNKNOWN, UNLISTED, scene_identity


def test_a_store_that_is_too_large_is_known_by_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryFileSystem()
    for name in ("zarr.json", "c/0", "c/1", "c/2"):
        store.pipe(f"/unlisted/a.zarr/{name}", b"{}")
    whole, _ = scene_identity("memory://unlisted/a.zarr", "a.zarr")
    assert not whole.startswith(UNKNOWN)
    monkeypatch.setattr(identity, "MOST_CHUNKS", 2)
    partly, _ = scene_identity("memory://unlisted/a.zarr", "a.zarr")
    assert partly.startswith(UNLISTED)
    assert partly == scene_identity("memory://unlisted/a.zarr", "a.zarr")[0]
    store.pipe("/unlisted/a.zarr/zarr.json", b"{ }")
    assert scene_identity("memory://unlisted/a.zarr", "a.zarr")[0] != partly
