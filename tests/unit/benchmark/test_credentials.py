"""Credentials by their kind: found, half of them, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from ussfc.pipeline.benchmark.credentials import credential_problems, find_credentials

NONE: dict[str, list[str]] = {"AWS": [], "GCS": [], "Azure": []}
SECRET = "0123456789secret"


@pytest.mark.parametrize(
    ("names", "store", "kind"),
    [
        (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "AWS", "environment variable"),
        (("AWS_CONTAINER_CREDENTIALS_FULL_URI",), "AWS", "role"),
        (("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"), "AWS", "role"),
        (("GOOGLE_APPLICATION_CREDENTIALS",), "GCS", "environment variable"),
        (("GS_ACCESS_KEY_ID", "GS_SECRET_ACCESS_KEY"), "GCS", "environment variable"),
        (("AZURE_STORAGE_SAS_TOKEN",), "Azure", "environment variable"),
        (("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"), "Azure", "environment variable"),
        (("IDENTITY_ENDPOINT",), "Azure", "role"),
    ],
)
def test_variables_are_of_a_kind(tmp_path: Path, names: tuple[str, ...], store: str, kind: str) -> None:
    environment = {"HOME": str(tmp_path)} | dict.fromkeys(names, SECRET)
    assert find_credentials(environment) == NONE | {store: [kind]}
    for name in names if len(names) > 1 else ():
        left = {key: value for key, value in environment.items() if key != name}
        assert find_credentials(left) == NONE
        (line,) = (line for line in credential_problems(left) if "without" in line)
        assert name in line.partition("without")[2]
        assert SECRET not in line


@pytest.mark.parametrize(
    ("file", "variable", "store"),
    [
        (".aws/credentials", "AWS_SHARED_CREDENTIALS_FILE", "AWS"),
        (".aws/config", "AWS_CONFIG_FILE", "AWS"),
        (".config/gcloud/application_default_credentials.json", "CLOUDSDK_CONFIG", "GCS"),
        (".azure/azureProfile.json", "AZURE_CONFIG_DIR", "Azure"),
    ],
)
def test_files_are_profiles(tmp_path: Path, file: str, variable: str, store: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_credentials({"HOME": str(tmp_path)}) == NONE | {store: ["profile"]}
    elsewhere = {"HOME": "/nowhere", variable: str(path if store == "AWS" else path.parent)}
    assert find_credentials(elsewhere) == NONE | {store: ["profile"]}


def test_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}
    (line,) = credential_problems(environment)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in line
    assert str(tmp_path) not in line
    (tmp_path / "key.json").touch()
    assert credential_problems(environment) == []
