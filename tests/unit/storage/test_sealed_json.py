"""Records with a checksum of their own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.storage.sealed_json import dumped, sealed, unsealed

RECORD = {"run": "a1b2", "low": [0.1, 1e-300], "none": None, "nested": {"ä": "é", "z": True}, "count": 3}


def test_a_record_comes_back() -> None:
    assert unsealed(sealed(RECORD)) == RECORD
    assert json.loads(sealed(RECORD))["checksum"].startswith("sha256:")


def test_records_of_earlier_versions_have_no_checksum() -> None:
    assert unsealed(dumped(RECORD)) == RECORD
    assert unsealed(b'{"a":1}') == {"a": 1}


@given(st.integers(0, len(sealed(RECORD)) * 8 - 1))
def test_every_bit_counts(bit: int) -> None:
    """Those of the checksum and of its name as well."""
    data = bytearray(sealed(RECORD))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        unsealed(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b"null", b"[" * 100_000, sealed(RECORD)[:-2], sealed(RECORD) + b" "]
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        unsealed(data)
