"""A network asked about every patch in the four directions, whose answers are averaged."""

from __future__ import annotations

import numpy as np

from ussfc.engines import Engine, FloatArray


class TurnedEngine:
    """Average the answers of an engine over quarter turns of a patch, as an :class:`ussfc.engines.Engine` of its own.

    A network that has learned from turned patches is still not the same in every direction. The four turns are a group:
    the average of a turned patch is the turned average.

    Args:
        engine: takes square patches; asked once for each turn, in a fixed order.
        turns: number of quarter turns, 1 to 4, the patch as it is among them.
    """

    def __init__(self, engine: Engine, turns: int) -> None:
        self._engine = engine
        self._turns = turns

    @property
    def streams(self) -> int:
        """Batches that may run at the same time; more callers wait."""
        return self._engine.streams

    def run(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        """Compute the change probability of a batch, see :meth:`ussfc.engines.Engine.run`."""
        count, _, rows, cols = before_NBHW.shape
        # In float64 the order of a sum of four float32 in [0, 1] does not reach its float32.
        total = np.zeros((count, rows, cols))
        for turns in range(self._turns):
            pair = (_turned(image, turns) for image in (before_NBHW, after_NBHW))
            total += _turned(self._engine.run(*pair), -turns)
        return (total / self._turns).astype(np.float32)


def _turned(images: FloatArray, turns: int) -> FloatArray:
    return np.ascontiguousarray(np.rot90(images, turns, (-2, -1)))
