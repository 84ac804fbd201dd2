"""Settings of generated pairs."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ussfc.training.synthesis.settings import SynthesisSection


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"paste": 0.9, "remove": 0.2}, "sum to more than 1"),
        ({"finest_m": 2.0}, "finest_m 2.0 is larger than coarsest_m 1.0"),
        ({"shifts": 1.0}, "Extra inputs are not permitted"),
        ({"shift": 6.0}, "less than or equal to 5"),
    ],
)
def test_contradictions_are_refused(keys: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SynthesisSection(**keys)
