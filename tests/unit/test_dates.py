"""Dates of acquisition."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from ussfc.pipeline.dates import date_text, iso_date, iso_time, moment, tiff_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2018:06:30 10:15:00", datetime(2018, 6, 30, 10, 15, tzinfo=UTC)),
        ("2018-06-30", datetime(2018, 6, 30, tzinfo=UTC)),
        (" 2018-06-30T12:15:00+02:00 ", datetime(2018, 6, 30, 10, 15, tzinfo=UTC)),
        ("June", None),
        (None, None),
    ],
)
def test_moment_of_a_text(text: str | None, expected: datetime | None) -> None:
    assert moment(text) == expected


@pytest.mark.parametrize(
    ("value", "text"), [("2018-06-30", "2018-06-30"), (date(2018, 6, 30), "2018-06-30"), (None, None)]
)
def test_date_of_a_user_is_text(value: object, text: str | None) -> None:
    assert date_text(value) == text


@pytest.mark.parametrize("value", ["June", "30.06.2018", 5, ""])
def test_no_date_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a date such as 2018-06-30"):
        date_text(value)


@pytest.mark.parametrize(
    ("text", "day", "iso", "tiff"),
    [
        ("2018:06:30 10:15:00", "2018-06-30", "2018-06-30T10:15:00", "2018:06:30 10:15:00"),
        ("2018-06-30", "2018-06-30", "2018-06-30", "2018:06:30 00:00:00"),
        ("2018-06-30T01:15:00.5+02:00", "2018-06-30", "2018-06-30T01:15:00.5+02:00", "2018:06:29 23:15:00"),
        ("June", None, "June", None),
        ("10:15", None, "10:15", None),
        (None, None, None, None),
    ],
)
def test_forms_of_a_time(text: str | None, day: str | None, iso: str | None, tiff: str | None) -> None:
    assert (iso_date(text), iso_time(text), tiff_time(text)) == (day, iso, tiff)
