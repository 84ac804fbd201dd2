"""Multipart uploads to S3 that were begun and not finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not finished; its parts cost storage and are seen by no reader."""

    name: str
    """Name of the file it was for, relative to the folder."""
    key: str
    """Bucket and key."""
    started: str
    """Time of its start, as the store gives it."""
    upload_id: str
    """Identifier of the upload in the store."""


def list_uploads(system: Any, folder: str, name: str = "") -> list[Upload]:
    """Return the unfinished uploads to a file of a folder, or to anything in it.

    Args:
        system: S3's file system.
        folder: bucket and prefix, without a slash at the end.
        name: of the file; all without it.
    """
    bucket, _, prefix = folder.partition("/")
    root = f"{prefix}/".lstrip("/")
    found: list[Upload] = []
    markers: dict[str, str] = {}
    while True:
        page = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=root + name, **markers)
        found += [
            Upload(entry["Key"][len(root):], f"{bucket}/{entry['Key']}", str(entry["Initiated"]), entry["UploadId"])
            for entry in page.get("Uploads", ())
        ]  # fmt: skip
        if not page.get("IsTruncated"):
            return found
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_upload(system: Any, upload: Upload) -> None:
    """Abort an upload; nothing happens where it was finished or aborted meanwhile."""
    bucket, _, key = upload.key.partition("/")
    try:
        system.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.upload_id)
    except FileNotFoundError:
        return
