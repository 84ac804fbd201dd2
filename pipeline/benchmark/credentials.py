"""Credentials of object stores that this machine holds, by their kind: nothing of their content is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ENVIRONMENT: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "AWS": (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),),
    "GCS": (("GOOGLE_APPLICATION_CREDENTIALS",), ("GS_ACCESS_KEY_ID", "GS_SECRET_ACCESS_KEY")),
    "Azure": (
        ("AZURE_STORAGE_CONNECTION_STRING",),
        ("AZURE_STORAGE_ACCOUNT_KEY",),
        ("AZURE_STORAGE_SAS_TOKEN",),
        ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"),
    ),
}
"""Variables that hold credentials, those of one tuple together."""

ROLES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "AWS": (
        ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI",),
    ),
    "GCS": (),
    "Azure": (("AZURE_FEDERATED_TOKEN_FILE",), ("IDENTITY_ENDPOINT",), ("MSI_ENDPOINT",)),
}
"""Variables by which a service gives this process a role of its own."""

PROFILES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "AWS": (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", ""),
        ("AWS_CONFIG_FILE", "~/.aws/config", ""),
    ),
    "GCS": (("CLOUDSDK_CONFIG", "~/.config/gcloud", "application_default_credentials.json"),),
    "Azure": (("AZURE_CONFIG_DIR", "~/.azure", "azureProfile.json"),),
}
"""Files of profiles: variable with the place, place without it, and the file in it if that is a folder."""

FILE_VARIABLES = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_FEDERATED_TOKEN_FILE",
)
"""Variables that name a file."""


def find_credentials(environment: Mapping[str, str] = os.environ) -> dict[str, list[str]]:
    """Return the kinds of credentials there are for each store: environment variable, profile, role.

    Roles that a network address of the machine gives (EC2, GCE, Azure VM) are not asked for.

    Args:
        environment: variables of the process.
    """
    found = {}
    for store in ENVIRONMENT:
        kinds = {
            "environment variable": _any_whole(ENVIRONMENT[store], environment),
            "profile": any(_profile(place, environment).exists() for place in PROFILES[store]),
            "role": _any_whole(ROLES[store], environment),
        }
        found[store] = [kind for kind, is_there in kinds.items() if is_there]
    return found


def credential_problems(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each set of variables of which one lacks, and each that names a file that is not there.

    Args:
        environment: variables of the process.
    """
    lines = []
    for names in (names for sets in (ENVIRONMENT, ROLES) for each in sets.values() for names in each):
        missing = [name for name in names if not environment.get(name)]
        if 0 < len(missing) < len(names):
            given = [name for name in names if name not in missing]
            lines.append(
                f"{' and '.join(given)} set without {' and '.join(missing)}; set all of them, or none"
            )
    lines += [
        f"{name} names a file that is not there; correct it, or unset it"
        for name in FILE_VARIABLES
        if environment.get(name) and not Path(environment[name]).exists()
    ]
    return lines


def _any_whole(sets: tuple[tuple[str, ...], ...], environment: Mapping[str, str]) -> bool:
    return any(all(environment.get(name) for name in names) for names in sets)


def _profile(place: tuple[str, str, str], environment: Mapping[str, str]) -> Path:
    variable, usual, name = place
    given = environment.get(variable)
    home = environment.get("HOME", "~")
    folder = Path(given or usual.replace("~", home, 1))
    return folder / name if name else folder
