"""Unfinished uploads, from the pages of a store's answers."""

from __future__ import annotations

from typing import Any

from ussfc.pipeline.storage.uploads import Upload, abort_upload, list_uploads


class Pages:
    """A file system of S3 that answers in pages of two, and notes the calls."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call_s3(self, name: str, **options: Any) -> dict[str, Any]:
        self.calls.append((name, options))
        if name == "abort_multipart_upload":
            if options["Key"] not in self.keys:
                raise FileNotFoundError
            self.keys.remove(options["Key"])
            return {}
        found = [key for key in self.keys if key.startswith(options["Prefix"])]
        start = found.index(options["KeyMarker"]) + 1 if "KeyMarker" in options else 0
        page = found[start : start + 2]
        entries = [{"Key": key, "Initiated": "today", "UploadId": f"id of {key}"} for key in page]
        if start + 2 < len(found):
            return {
                "Uploads": entries,
                "IsTruncated": True,
                "NextKeyMarker": page[-1],
                "NextUploadIdMarker": "x",
            }
        return {"Uploads": entries} if entries else {}


KEYS = ["city/out/a", "city/out/b", "city/out/work/c", "city/out/work/d", "city/out2/e", "other"]


def test_uploads_of_a_folder_come_from_all_pages() -> None:
    found = list_uploads(Pages(KEYS), "bucket/city/out")
    assert [upload.name for upload in found] == ["a", "b", "work/c", "work/d"]
    assert found[0] == Upload("a", "bucket/city/out/a", "today", "id of city/out/a")


def test_uploads_of_a_name_are_its_own() -> None:
    assert [upload.name for upload in list_uploads(Pages(KEYS), "bucket/city/out", "b")] == ["b"]
    assert list_uploads(Pages(KEYS), "bucket/city/out", "absent") == []


def test_a_whole_bucket_is_a_folder() -> None:
    assert [upload.name for upload in list_uploads(Pages(KEYS), "bucket")] == KEYS


def test_an_upload_is_aborted_once() -> None:
    system = Pages(list(KEYS))
    upload = list_uploads(system, "bucket/city/out")[0]
    abort_upload(system, upload)
    abort_upload(system, upload)
    assert system.keys == KEYS[1:]
    options = {"Bucket": "bucket", "Key": "city/out/a", "UploadId": "id of city/out/a"}
    assert system.calls[-1] == ("abort_multipart_upload", options)
