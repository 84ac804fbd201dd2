"""Scores of a model on labelled data."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ussfc.metrics import Confusion, Tally

SWEEP = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds of the sweep."""


@dataclasses.dataclass(frozen=True)
class SceneScore:
    """Score of one scene or picture."""

    name: str
    tally: Tally
    baselines: Mapping[str, Confusion]
    """Counts of the baselines without learning by name; empty where they were not computed."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of a model on labelled data."""

    model: str
    data: tuple[str, ...]
    threshold: float
    """Threshold of every score but the sweep's."""
    threshold_from: str
    """Origin of the threshold."""
    scenes: tuple[SceneScore, ...]

    @property
    def tally(self) -> Tally:
        """Tally of all scenes together."""
        return sum((scene.tally for scene in self.scenes), Tally.empty())

    def summary(self) -> dict[str, Any]:
        """Return the numbers for people and programs; scores are of one summed confusion matrix."""
        total = self.tally
        sweep = [{"threshold": t, **total.at(t).scores()} for t in SWEEP]
        result = {
            "model": self.model,
            "data": list(self.data),
            "threshold": self.threshold,
            "threshold_from": self.threshold_from,
            "scores": total.at(self.threshold).scores(),
            "confusion": dataclasses.asdict(total.at(self.threshold)),
            "average_precision": _average_precision(total),
            "mean_average_precision": _mean([_average_precision(scene.tally) for scene in self.scenes]),
            "calibration": {
                **_calibration(total),
                "reliability": [
                    {"probability": mean, "change": share, "pixels": pixels}
                    for mean, share, pixels in total.reliability()
                ],
            },
            "scenes": [
                {
                    "name": scene.name,
                    **_counts(scene.tally),
                    **scene.tally.at(self.threshold).scores(),
                    "average_precision": _average_precision(scene.tally),
                    "calibration": _calibration(scene.tally),
                }
                for scene in self.scenes
            ],
            "sweep": sweep,
        }
        names = list(self.scenes[0].baselines) if self.scenes else []
        if names:
            result["baselines"] = [
                {
                    "method": f"{name}, Otsu's threshold of the scene",
                    "scores": sum((scene.baselines[name] for scene in self.scenes), Confusion()).scores(),
                    "scenes": [
                        {"name": scene.name, **scene.baselines[name].scores()} for scene in self.scenes
                    ],
                }
                for name in names
            ]
        return result


def _average_precision(tally: Tally) -> float | None:
    """Return the average precision; None without change."""
    return tally.average_precision() if tally.change.any() else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that are defined; None where there is none."""
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


def _calibration(tally: Tally) -> dict[str, float | None]:
    """Return the calibration error, the temperature and the error at that temperature; None where not defined."""
    error, temperature = tally.calibration_error(), tally.temperature()
    tempered = math.nan if math.isnan(temperature) else tally.calibration_error(temperature=temperature)
    values = {
        "expected_error": error if tally.change.any() else math.nan,
        "temperature": temperature,
        "tempered_error": tempered,
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _counts(tally: Tally) -> dict[str, int]:
    change = int(tally.change.sum())
    return {"pixels": change + int(tally.no_change.sum()), "changed_pixels": change}
