"""Settings of generated pairs: shares of their kinds, and amplitudes of what differs between dates."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

MARGIN = 6
"""Pixels around a crop while it is generated, so that dates can be shifted without an edge coming into sight."""


class SynthesisSection(BaseModel):
    """Settings of generated pairs. Amplitudes are of uniform distributions, drawn for each date separately."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paste: float = Field(0.28, ge=0, le=1)
    """Share of pairs with instances pasted into a tile or a background."""
    remove: float = Field(0.18, ge=0, le=1)
    """Share of pairs with instances of a tile covered by ground."""
    unrelated_tiles: float = Field(0.03, ge=0, le=1)
    """Share of pairs of two tiles, or of a background and a tile; about a third of their pixels change."""
    unrelated_backgrounds: float = Field(0.06, ge=0, le=1)
    """Share of pairs of two backgrounds: everything differs, no pixel changes. The remaining pairs are unchanged."""
    drawn: float = Field(0.0, ge=0, le=1)
    """Share of drawn roofs among pasted instances, and of other grounds that get drawn roofs: for buildings only."""
    reverse: float = Field(0.25, ge=0, le=1)
    """Share of pairs whose dates are exchanged, so that instances disappear instead of appear."""
    finest_m: PositiveFloat = 0.2
    """Smallest ground size of a pixel, metres."""
    coarsest_m: PositiveFloat = 1.0
    """Largest ground size of a pixel, metres; less where a tile is too small for it."""
    ground_changes: float = Field(0.4, ge=0, le=1)
    """Share of pairs with fields, bare soil or paving that differ and are no change."""
    leaning: float = Field(0.25, ge=0, le=1)
    """Probability that a date sees instances from another side, up to 4 px from where they stand."""
    cast_shadows: float = Field(0.25, ge=0, le=1)
    """Probability that a date shows additional shadows of unchanged instances."""
    season: float = Field(0.35, ge=0, le=1)
    """Probability that a date shows plants in another colour."""
    shift: float = Field(2.0, ge=0, le=MARGIN - 1)
    """Largest distance between the dates, pixels."""
    gain: float = Field(0.3, ge=0, lt=1)
    """Contrast of a date."""
    band_gain: float = Field(0.12, ge=0, lt=1)
    """Contrast of each band."""
    bias: float = Field(0.12, ge=0, lt=1)
    """Brightness of a date; 0.4 of it again for each band."""
    gamma: float = Field(0.35, ge=0, lt=1)
    """Natural logarithm of the exponent."""
    blur: float = Field(1.1, ge=0)
    """Largest standard deviation of the Gaussian blur of two dates in three, pixels."""
    noise: float = Field(0.03, ge=0, lt=1)
    """Largest standard deviation of Gaussian noise."""
    compressed: float = Field(0.5, ge=0, le=1)
    """Probability that a date has been a JPEG of quality 30 to 90."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.paste + self.remove + self.unrelated_tiles + self.unrelated_backgrounds > 1 + 1e-9:
            raise ValueError("paste, remove, unrelated_tiles and unrelated_backgrounds sum to more than 1")
        if self.finest_m > self.coarsest_m:
            raise ValueError(f"finest_m {self.finest_m} is larger than coarsest_m {self.coarsest_m}")
        return self
