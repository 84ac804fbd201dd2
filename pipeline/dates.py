"""Dates of acquisition, as image files and users write them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any


def moment(text: str | None) -> datetime | None:
    """Parse a time as image files state it, UTC where they name no zone; None where it is none."""
    if text is None:
        return None
    try:
        # TIFF separates dates by colons.
        parsed = datetime.strptime(text.strip(), "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007
    except ValueError:
        try:
            parsed = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


def iso_date(text: str | None) -> str | None:
    """Return the day of a time as image files and users state it, ``2018-06-30``; None where it is none."""
    found = moment(text)
    return None if found is None else found.date().isoformat()


def iso_time(text: str | None) -> str | None:
    """Return a time as ISO 8601 where it is written as in a TIFF; any other text as it is."""
    found = moment(text) if text and re.match(r"\s*\d+:", text) else None
    return text if found is None else found.replace(tzinfo=None).isoformat()


def tiff_time(text: str | None) -> str | None:
    """Return a time as TIFF states it, in UTC, midnight where only the day is known; None where it is none."""
    found = moment(text)
    return None if found is None else found.astimezone(UTC).strftime("%Y:%m:%d %H:%M:%S")


def date_text(value: Any) -> Any:
    """Return a date or time of a user as text.

    Args:
        value: text, or what YAML makes of it.

    Raises:
        ValueError: it is neither a date nor a time.
    """
    if value is None:
        return None
    text = value.isoformat() if isinstance(value, date) else str(value).strip()
    if moment(text) is None:
        raise ValueError("expected a date such as 2018-06-30, or a time such as 2018-06-30T10:15:00Z")
    return text
