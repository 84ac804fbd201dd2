"""The contract of a folder, over every kind of store. A new kind gets a line in `KINDS`."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.support.folder_contract import FolderContract
from ussfc.pipeline.storage.folder import Folder

KINDS = {
    "local": ("{tmp_path}/out", ()),
    "memory": ("memory://{random}/out", ()),
    "s3": ("s3://{bucket}/city/out", ("s3_environment", "bucket")),
    "azure": ("az://{container}/city/out", ("azure_environment", "container")),
}
"""Address and fixtures of each kind."""


class TestFolderContract(FolderContract):
    @pytest.fixture(params=KINDS)
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
        address, fixtures = KINDS[request.param]
        values = {name: request.getfixturevalue(name) for name in fixtures}
        return Folder.of(address.format(tmp_path=tmp_path, random=secrets.token_hex(6), **values))
