"""Scenes in object stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cogs import write_cog
from tests.support.servers import SeaweedFS
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.reading import opening
from ussfc.pipeline.storage import remote

pytest.register_assert_rewrite("tests.support.folder_contract")


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cloud optimised image with nodata, blocks of 256 px and overviews."""
    return write_cog(tmp_path_factory.mktemp("local") / "scene.tif", 1500, blocksize=256)


@pytest.fixture
def scene(local: Path, seaweed: SeaweedFS, bucket: str) -> str:
    """The same on S3."""
    seaweed.put(bucket, "city/scene.tif", local.read_bytes())
    return f"s3://{bucket}/city/scene.tif"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are short here."""
    options = remote.options

    def with_one_attempt(scheme: str) -> dict[str, Any]:
        return options(scheme) | (
            {"config_kwargs": {"retries": {"max_attempts": 1}}} if scheme == "s3" else {}
        )

    monkeypatch.setattr(remote, "options", with_one_attempt)
    remote.forget_connections()
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=3, first=0.05, factor=2))
    monkeypatch.setattr(opening, "READ_BACKOFF", Backoff(attempts=4, first=0.02, factor=2.5, longest=0.1))
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.02")
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
