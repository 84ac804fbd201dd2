"""Scores of a model on labelled data."""

from __future__ import annotations

import dataclasses
from typing import Any

from ussfc.metrics import Confusion, Tally

SWEEP = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds of the sweep."""


@dataclasses.dataclass(frozen=True)
class SceneScore:
    """Score of one scene or picture."""

    name: str
    tally: Tally
    baseline: Confusion | None
    """Change vector magnitude with Otsu's threshold; None where it was not computed."""


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
            "average_precision": total.average_precision() if total.change.any() else None,
            "scenes": [
                {"name": scene.name, **_counts(scene.tally), **scene.tally.at(self.threshold).scores()}
                for scene in self.scenes
            ],
            "sweep": sweep,
        }
        known = [scene.baseline for scene in self.scenes if scene.baseline is not None]
        if known:
            result["baseline"] = {
                "method": "change vector magnitude, Otsu's threshold per scene",
                "scores": sum(known, Confusion()).scores(),
                "scenes": [
                    {"name": scene.name, **scene.baseline.scores()}
                    for scene in self.scenes
                    if scene.baseline is not None
                ],
            }
        return result


def _counts(tally: Tally) -> dict[str, int]:
    change = int(tally.change.sum())
    return {"pixels": change + int(tally.no_change.sum()), "changed_pixels": change}
